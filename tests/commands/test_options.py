"""Options that commands share: their defaults, and the helpers that check them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from cckt.ablation import AblationPlan
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.all_at_once import cache_all, cache_photos
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors
from cckt.cache_builder.columns.options import Making
from cckt.cache_builder.columns.recompute import verify_data
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import build_index
from cckt.cache_builder.store import pull as pull_columns
from cckt.commands import ablate, data, eval, export, options, pseudo, report
from cckt.commands.cache import columns, make, priors
from cckt.detector.evaluation.evaluate import evaluate_detections, evaluate_run
from cckt.detector.evaluation.pseudo_labels import pseudo_index
from cckt.detector.export.graph import export_graph
from cckt.detector.export.model_card import export_folder
from cckt.detector.report import write_report
from cckt.shapeworld.dataset import make_dataset

PAIRS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (data.index, build_index),
    (data.shapeworld, make_dataset),
    (make.text, cache_text),
    (make.crops, cache_photos),
    (make.crops, Making),
    (make.images, cache_images),
    (make.images, Making),
    (make.all_columns, cache_all),
    (make.all_columns, Making),
    (priors.priors, cache_clip_priors),
    (priors.priors, cache_mllm_priors),
    (columns.verify, verify_data),
    (columns.pull, pull_columns),
    (eval.evaluate, evaluate_run),
    (eval.evaluate, evaluate_detections),
    (report.report, write_report),
    (pseudo.pseudo, pseudo_index),
    (export.export, export_graph),
    (export.export, export_folder),
    (ablate.ablate, AblationPlan),
]
"""Command -> the library function that it calls."""
OTHER = {"name", "resamples", "confirm"}
"""cache all: labels of several teachers; eval: intervals are shown by default; confirm: a number here, a
teacher in the library."""


@pytest.mark.parametrize(("command", "library"), PAIRS, ids=lambda one: one.__name__)
def test_defaults_are_those_of_the_library(command: Callable[..., Any], library: Callable[..., Any]) -> None:
    """Options whose default is None leave the choice to the library."""
    ours, theirs = (
        {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        for function in (command, library)
    )
    shared = {name for name in ours.keys() & theirs.keys() - OTHER if ours[name] is not None}
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_the_defaults_are_compared() -> None:
    shared = {"batch", "crop", "device", "jitter", "precision", "protocol", "tau", "templates"}
    compared = {name for _, library in PAIRS for name in inspect.signature(library).parameters}
    assert shared < compared


def test_an_unused_option_is_refused() -> None:
    options.refuse_unused({"--a": None, "--b": options.changed(1, 1)}, "is not reported.")
    with pytest.raises(UserError, match=r"^--b applies only to a run$"):
        options.refuse_unused({"--a": None, "--b": options.changed(2, 1)}, "applies only to a run")
