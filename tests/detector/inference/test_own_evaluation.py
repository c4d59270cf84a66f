"""The score threshold and the temperature of priors that a run's own evaluation gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.inference.own_evaluation import DEFAULT_THRESHOLD, Threshold, prior_tau
from cckt.detector.inference.predict import Predictor
from cckt.detector.runs.run_folder import Facts
from tests.detector.evaluation.evaluation_world import (
    TEACHER,
    add_column,
    make_data,
    make_run,
    small_config,
    unit_rows,
)


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    return make_run(tmp_path / "run", small_config())


def write_evaluation(run, **figures):
    (run / "metrics.json").write_text(json.dumps({"evaluation": {"figures": figures}}))


def test_a_run_without_evaluation_has_the_default_threshold_and_no_warning(run):
    predictor = Predictor.load(run, device="cpu")
    assert predictor.scale.own == Threshold(DEFAULT_THRESHOLD, None)
    assert predictor.warning == ""
    assert "no evaluation" in predictor.scale.own.origin
    assert prior_tau(run) is None


def test_the_threshold_is_the_score_with_the_best_f1(run):
    write_evaluation(run, best_f1={"score": 0.83, "precision": 0.5, "recall": 0.5, "f1": 0.5})
    predictor = Predictor.load(run, device="cpu")
    assert (predictor.threshold, predictor.warning) == (0.83, "")
    assert "best F1" in predictor.scale.own.origin


@pytest.mark.parametrize("score", [1.0, DEFAULT_THRESHOLD])
def test_a_run_without_a_correct_detection_has_the_default_threshold_and_a_warning(run, score):
    """Earlier versions recorded the score 1.0 for such a run, which hid every detection."""
    write_evaluation(run, best_f1={"score": score, "precision": 0.0, "recall": 0.0, "f1": 0.0})
    predictor = Predictor.load(run, device="cpu")
    assert predictor.threshold == DEFAULT_THRESHOLD
    assert "\n" not in predictor.warning
    assert predictor.warning.startswith("no detection of the run's own evaluation is correct (best F1 is 0)")
    assert "no detection" in predictor.scale.own.origin


def test_an_evaluation_without_a_correct_detection_records_the_default_threshold(run, tmp_path):
    index = make_data(tmp_path / "world", photos=3)
    add_column(index, "text", unit_rows(4))
    metrics = evaluate_run(run, index.folder, priors="none")
    assert metrics.figures["best_f1"] == {"score": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_the_tau_of_the_own_evaluation_comes_before_that_of_training(run, tmp_path):
    recipe = dict(TEACHER)
    Facts(16, 2, ["cat", "dog"], [1, 2], "sha256:index", recipe, recipe, priors_recipe={"tau": 0.05}).save(
        run
    )
    assert prior_tau(run) == 0.05
    index = make_data(tmp_path / "world", photos=3)
    add_column(index, "text", unit_rows(4))
    add_column(index, "priors/clip", np.full((3, 4), 0.8, np.float32), {"tau": 0.02, **TEACHER})
    evaluate_run(run, index.folder)
    assert prior_tau(run) == 0.02


def test_priors_without_a_tau_leave_it_unknown(run):
    recipe = dict(TEACHER)
    facts = Facts(16, 2, ["cat", "dog"], [1, 2], "sha256:index", recipe, recipe, priors_recipe={"llm": "x"})
    facts.save(run)
    write_evaluation(run, prior_tau=None)
    assert prior_tau(run) is None
