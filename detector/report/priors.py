"""Measure the priors that guide a run, and AP50 over a grid of rho and L."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.atomic_files import plain
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.presence import known_pairs
from cckt.cache_builder.quality.existence import chosen_pairs, existence_report
from cckt.detector.config.config import PriorConfig
from cckt.detector.evaluation.evaluation_set import EvaluationSet
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.evaluation.inference_loop import Variant, infer
from cckt.detector.evaluation.measure import measure
from cckt.detector.inference.inference_model import load_inference_model

RHOS, LIMITS = (0.5, 0.7, 0.9), (3, 6, 12)
"""Grid of rho and L; the run's own values are added."""
BINS = 10
"""Bins of the reliability curve."""

Table = npt.NDArray[np.bool_]


def prior_quality(scene: EvaluationSet, prior: PriorConfig) -> dict[str, Any] | None:
    """Return the quality of a column of priors by split; None if the priors come from no column.

    Figures of a split: "precision", "recall", "f1" and "ap" as in `existence_report`, at the rho and L of
    `prior`; "predicted_per_image" and "annotated_per_image", mean numbers of concepts; "reliability", see
    `_reliability`. Images without priors do not count, and neither do pairs of which the annotations say
    nothing (LVIS). Concepts added by `prior.fill` do not count as predicted. Source: docs/method/cckt_det.md,
    eq. 7.
    """
    if not prior.cached:
        return None
    try:
        column = scene.priors_column(prior.source)
    except UserError:
        return None
    probabilities = np.asarray(column.all()[:, scene.rows], np.float64)
    annotated = scene.prior_probabilities(PriorConfig(source="oracle"))
    assert annotated is not None, "expected a table for the source oracle, found None"
    presence, known = annotated > 0, _known(scene, annotated > 0)
    valid = column.valid_all()
    splits = {split: np.flatnonzero(scene.vocabulary.in_split(split)) for split in ("base", "novel")}
    splits = {split: rows for split, rows in splits.items() if len(rows)}
    existence = existence_report(
        probabilities, presence, splits, rho=prior.rho, limit=prior.limit, valid=valid, known=known
    )
    counted = known & valid[:, None]
    predicted = chosen_pairs(probabilities, np.arange(len(scene.rows)), prior.rho, prior.limit) & counted
    images = max(1, int(valid.sum()))
    quality: dict[str, Any] = {"source": prior.source, "rho": prior.rho, "limit": prior.limit, "splits": {}}
    for split, rows in splits.items():
        figures = existence[split].to_json()
        quality["splits"][split] = {
            **{name: plain(figures[name]) for name in ("precision", "recall", "f1", "ap")},
            "predicted_per_image": int(predicted[:, rows].sum()) / images,
            "annotated_per_image": int((presence & counted)[:, rows].sum()) / images,
            "reliability": _reliability(
                probabilities[:, rows][counted[:, rows]], presence[:, rows][counted[:, rows]]
            ),
        }
    return quality


def _known(scene: EvaluationSet, presence: Table) -> Table:
    """Return (I, C) bool: the pairs of image and concept that the annotations decide."""
    known = known_pairs(scene.index)
    return np.ones_like(presence) if known is None else known[:, scene.rows]


def _reliability(probabilities: npt.NDArray[np.float64], presence: Table) -> list[dict[str, float]]:
    """Return "probability" (mean), "frequency" of presence and number of "pairs" of each non-empty bin."""
    numbers = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return [
        {
            "probability": float(probabilities[inside].mean()),
            "frequency": float(presence[inside].mean()),
            "pairs": int(inside.sum()),
        }
        for inside in (numbers == number for number in range(BINS))
        if inside.any()
    ]


def sweep_priors(
    run: Path, scene: EvaluationSet, variant: Variant, device: str, progress: Progress
) -> dict[str, Any] | None:
    """Return AP50 of base and novel concepts for a grid of rho and L, without priors, and with oracle priors.

    One pass of the encoder serves the whole grid. None if the run has no guidance or the prior of `variant`
    needs no column.
    """
    prior = variant.prior
    network, _ = load_inference_model(run, device)
    if not network.guided or not prior.cached:
        return None
    grid = {
        f"{rho} {limit}": replace(prior, rho=rho, limit=limit)
        for rho, limit in itertools.product(sorted({*RHOS, prior.rho}), sorted({*LIMITS, prior.limit}))
    }
    grid |= {"none": PriorConfig(source="none"), "oracle": PriorConfig(source="oracle")}
    inference = replace(variant.inference, restrict_to_present=False)
    variants = [Variant(name, one, inference) for name, one in grid.items()]
    found = infer(network, scene, variants, progress=progress).detections
    truth = ground_truth_of(scene.index, scene.protocol)
    cells = []
    for name, one in grid.items():
        figures = measure(scene.index, found[name], truth=truth).metrics
        ap50 = plain({"base": figures.ap50_base, "novel": figures.ap50_novel})
        cells.append({"source": one.source, "rho": one.rho, "limit": one.limit, **ap50})
    return {"fill": prior.fill, "cells": cells, "own": {"rho": prior.rho, "limit": prior.limit}}
