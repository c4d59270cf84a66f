"""Requests of a few words: their figures, and the calibration that is fitted on them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cckt.detector.config.config import changed
from cckt.detector.evaluation.asked import (
    GROUP,
    RequestMatches,
    drawn_requests,
    grouped_requests,
    headline_rows,
    match_requests,
    request_figures,
    request_rows,
    requesting,
)
from cckt.detector.evaluation.calibrate import (
    LEAST_PROBABILITY,
    calibration_error,
    fit_map,
    fit_score_calibration,
)
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.evaluation.evaluation_set import open_evaluation_set
from cckt.detector.evaluation.inference_loop import Request, Variant, infer
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.inference.own_evaluation import DEFAULT_THRESHOLD, calibration_of_run
from cckt.detector.inference.predict import Predictor
from cckt.detector.runs.base_text import save_base_text
from cckt.detector.runs.run_folder import Facts
from tests.detector.evaluation.evaluation_world import (
    add_column,
    make_data,
    make_run,
    small_config,
    unit_rows,
)


@pytest.fixture
def world(tmp_path):
    torch.manual_seed(0)
    index = make_data(tmp_path / "world", photos=5)
    add_column(index, "text", unit_rows(4))
    config = changed(changed(small_config(), "prior", source="none"), "inference", softmax=True, nms=0.5)
    return make_run(tmp_path / "run", config), index


def test_requests_are_drawn_with_a_seed_and_rivals_are_the_other_base_concepts(world):
    run, index = world
    scene, facts = open_evaluation_set(index.folder), Facts.load(run)
    drawn = drawn_requests(scene, facts, 2, 20)
    assert drawn == drawn_requests(scene, facts, 2, 20)
    assert drawn != drawn_requests(scene, facts, 2, 20, seed=1)
    for one in drawn:
        assert len(set(one.words)) == 2
        assert set(one.rivals) == {0, 1} - set(one.words)  # cat and dog are base
    assert drawn_requests(scene, None, 2, 20) == drawn
    (every,) = grouped_requests(scene, facts)
    assert every.words == (0, 1, 2)
    assert every.rivals == ()
    assert GROUP >= 3


def test_a_request_finds_what_predict_finds(world):
    run, index = world
    model, facts = load_inference_model(run, "cpu")
    scene = open_evaluation_set(index.folder, facts)
    variant = Variant("x", model.config.prior, model.config.inference)
    (one,) = requesting(variant, [Request((1, 2), (0,))], "some")
    plain = infer(model, scene, [variant]).detections["x"]
    together = infer(model, scene, [variant, one])
    np.testing.assert_array_equal(together.detections["x"].scores, plain.scores)
    found = together.detections[one.name]
    assert set(found.category_ids.tolist()) <= {2, 3}
    detector = Predictor(model, facts, base_text=unit_rows(4)[:2])
    for image in range(len(index)):
        (expected,) = detector.predict(
            index.photo_path(image), "dog, kite", text=unit_rows(4)[1:3], min_score=0.0, batch=1
        )
        ours = found.where(found.image_ids == index.image_ids[image])
        np.testing.assert_allclose(ours.scores, expected.scores, atol=1e-5)


def test_figures_of_requests_count_finds_by_split_and_absent_words(world):
    run, index = world
    scene = open_evaluation_set(index.folder, Facts.load(run))
    # Photo 13 shows cat, dog and kite; photo 11 shows cat only.
    box = np.array(
        [[0.0, 7.0, 8.0, 12.0], [20.0, 7.0, 8.0, 12.0], [0.0, 5.0, 8.0, 12.0], [1.0, 1.0, 9.0, 9.0]]
    )
    found = Detections(
        np.array([13, 13, 11, 11]), np.array([1, 3, 1, 3]), np.array([0.9, 0.8, 0.7, 0.6]), box
    )
    matches = match_requests(scene, [(Request((0, 2), (1,)), found), (Request((1,), (0,)), found)])
    assert matches.right.sum() == 3
    assert matches.photos == 10
    figures = request_figures(matches, ScoreCalibration((1.0, 0.0), (1.0, 0.0), 0.5, 1.0))
    cats, dogs, kites = 4, 3, 2
    assert figures["base"]["boxes"] == cats + dogs
    assert figures["novel"] == {
        "precision": 0.5, "recall": 1 / kites, "f1": 2 / (2 + kites), "finds": 2, "boxes": kites
    }  # fmt: skip
    assert figures["base"]["precision"] == 1.0
    assert figures["absent_finds_per_photo"] == 0.1
    assert request_rows(figures)[1] == ("novel", "50.0", "50.0", "50.0", "2")
    none = request_figures(matches, ScoreCalibration((1.0, 0.0), (1.0, 0.0), 0.95, 1.0))
    assert none["base"]["precision"] is none["ece"] is None
    assert request_rows(none)[0][1] == "–"


def test_a_word_is_novel_to_a_run_that_had_no_boxes_of_it_whatever_the_split_here(world):
    """As in cckt predict: after a training on other classes the split of the index is not that of the run."""
    run, index = world
    facts = replace(Facts.load(run), names=["kite", "cat"], category_ids=[3, 1])
    scene = open_evaluation_set(index.folder, facts)
    box = np.array([[0.0, 7.0, 8.0, 12.0], [20.0, 7.0, 8.0, 12.0], [10.0, 7.0, 8.0, 12.0]])
    found = Detections(np.array([13, 13, 13]), np.array([1, 3, 2]), np.array([0.9, 0.8, 0.7]), box)
    matches = match_requests(scene, [(Request((0, 1, 2), ()), found)])
    detector = Predictor(load_inference_model(run, "cpu")[0], facts, base_text=unit_rows(4)[[2, 0]])
    words = detector.prepare("cat, dog, kite", unit_rows(4)[:3])[0]
    assert [word.split == "novel" for word in words] == [False, True, False]
    by_score = np.argsort(-matches.scores)
    assert matches.novel[by_score].tolist() == [False, False, True]  # cat, kite, dog
    cats, dogs, kites = 4, 3, 2
    assert matches.boxes == {"base": cats + kites, "novel": dogs}


def test_an_evaluation_stores_its_calibration_and_figures_of_requests(world):
    run, index = world
    metrics = evaluate_run(run, index.folder, asked=2, draws=3)
    asked = metrics.figures["asked"]
    assert (asked["words"], asked["draws"]) == (2, 3)
    named = metrics.figures["requests"]
    assert named["words"] == 3, "all words of the data set, which has fewer than a request holds"
    assert [label for label, _ in headline_rows(named)] == [
        "precision base, 3 words named",
        "recall base, 3 words named",
        "precision novel, 3 words named",
        "recall novel, 3 words named",
        "false finds of absent words per photo",
    ]
    assert set(asked["base"]) == {"precision", "recall", "recall_with_all_words", "f1", "finds", "boxes"}
    json.dumps(metrics.as_dict(), allow_nan=False)
    stored = calibration_of_run(run)
    assert stored is not None
    assert stored.as_dict() == metrics.figures["calibration"]
    without = evaluate_run(run, index.folder)
    assert "asked" not in without.figures
    assert without.stats == metrics.stats


def test_a_run_of_an_earlier_version_takes_the_calibration_of_its_newest_evaluation(world):
    run, index = world
    assert calibration_of_run(run) is None
    (run / "metrics.json").write_text(json.dumps({"evaluation": {"figures": {"best_f1": {"score": 0.7}}}}))
    assert calibration_of_run(run) is None
    bare = Predictor.load(run, "cpu")
    save_base_text(run, unit_rows(2))
    guided = Predictor.load(run, "cpu")
    assert not any("not calibrated" in note for note in bare.notes)  # it has no rivals either
    assert any("not calibrated" in note for note in guided.notes)
    evaluate_run(run, index.folder)
    assert calibration_of_run(run) is not None


def test_a_map_recovers_the_probabilities_that_made_the_outcomes():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.001, 0.999, 20000)
    odds = np.log(scores / (1 - scores))
    truth = 1 / (1 + np.exp(-(1.7 * odds - 1.2)))
    right = rng.random(len(scores)) < truth
    slope, offset = fit_map(scores, right)
    assert slope == pytest.approx(1.7, abs=0.1)
    assert offset == pytest.approx(-1.2, abs=0.1)
    novel = rng.random(len(scores)) < 0.3
    known = fit_score_calibration(scores, right, novel, int(right.sum()))
    assert calibration_error(known.apply(scores, novel), right) < 0.02 < calibration_error(scores, right)
    assert (np.diff(known.apply(np.sort(scores), np.zeros(len(scores), bool))) >= 0).all()


def test_a_map_of_separated_scores_is_finite_and_rising():
    scores = np.array([0.9] * 30 + [0.1] * 30)
    slope, offset = fit_map(scores, scores > 0.5)
    assert 0 < slope < 100
    assert abs(offset) < 100
    assert fit_map(scores, scores < 0.5)[0] > 0


def test_a_calibration_without_a_correct_detection_is_the_identity():
    nothing = fit_score_calibration(np.array([0.3]), np.array([False]), np.array([False]), 5)
    assert nothing == ScoreCalibration((1.0, 0.0), (1.0, 0.0), DEFAULT_THRESHOLD, 0.0)
    empty = fit_score_calibration(np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), 0)
    assert empty == nothing
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_the_threshold_of_a_calibration_has_the_best_f1():
    rng = np.random.default_rng(1)
    scores = rng.uniform(size=300)
    right = rng.random(300) < scores**2
    novel = rng.random(300) < 0.5
    known = fit_score_calibration(scores, right, novel, 120)
    calibrated = known.apply(scores, novel)
    levels = np.unique(calibrated[calibrated >= LEAST_PROBABILITY])
    f1 = [2 * right[calibrated >= t].sum() / ((calibrated >= t).sum() + 120) for t in levels]
    assert known.f1 == pytest.approx(max(f1))
    shown = calibrated >= np.float32(known.threshold)
    assert 2 * right[shown].sum() / (shown.sum() + 120) == pytest.approx(max(f1))


def test_matches_are_plain_columns():
    matches = RequestMatches(np.zeros(0), *(np.zeros(0, bool),) * 3, {"base": 0, "novel": 0}, 0)
    assert request_figures(matches, ScoreCalibration((1.0, 0.0), (1.0, 0.0), 0.5, 0.0))["all"]["f1"] is None
