"""How good the priors were that a run was guided by, and what rho and L make of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.atomic_files import plain
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.detector.config.config import PriorConfig
from cckt.detector.evaluation.evaluation_set import EvaluationSet
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.evaluation.inference_loop import Variant, infer
from cckt.detector.evaluation.measure import measure
from cckt.detector.inference.inference_model import load_inference_model

RHOS, LIMITS = (0.5, 0.7, 0.9), (3, 6, 12)
BINS = 10


def prior_quality(scene: EvaluationSet, prior: PriorConfig) -> dict[str, Any] | None:
    """Precision, recall and F1 of the concepts said to be present, by split, and how well the probabilities
    are calibrated; None where the run's priors are of no column.

    Photos whose annotations say nothing about a concept (LVIS) count as photos without it.
    """
    if not prior.cached:
        return None
    try:
        column = scene.priors_column(prior.source)
    except UserError:
        return None
    probabilities = np.asarray(column.all()[:, scene.rows], np.float64)
    chosen, truly = (np.zeros(probabilities.shape, bool) for _ in range(2))
    for table, rows in (
        (chosen, scene.present_concepts(prior)),
        (truly, scene.present_concepts(PriorConfig(source="oracle"))),
    ):
        for photo, concepts in enumerate(rows or []):
            table[photo, concepts] = True
    answer: dict[str, Any] = {"source": prior.source, "rho": prior.rho, "limit": prior.limit, "splits": {}}
    for split in ("base", "novel"):
        columns = scene.vocabulary.in_split(split)
        if not columns.any():
            continue
        hits = int((chosen & truly)[:, columns].sum())
        said, there = int(chosen[:, columns].sum()), int(truly[:, columns].sum())
        answer["splits"][split] = {
            "precision": hits / said if said else None,
            "recall": hits / there if there else None,
            "f1": 2 * hits / (said + there) if said + there else None,
            "said_per_photo": said / max(1, len(chosen)),
            "there_per_photo": there / max(1, len(truly)),
        }
        answer["splits"][split]["reliability"] = _reliability(probabilities[:, columns], truly[:, columns])
    return answer


def _reliability(probabilities: np.ndarray, truly: np.ndarray) -> list[dict[str, float]]:
    """Of the pairs in each tenth of probability: their mean probability, how often it was so, how many."""
    numbers = np.minimum((np.nan_to_num(probabilities) * BINS).astype(int), BINS - 1)
    return [
        {"said": float(probabilities[at].mean()), "so": float(truly[at].mean()), "pairs": int(at.sum())}
        for at in (numbers == one for one in range(BINS))
        if at.any()
    ]


def sweep(
    run: Path, scene: EvaluationSet, prior: PriorConfig, device: str, progress: Progress
) -> dict[str, Any] | None:
    """AP50 of base and novel for rho x L, and with no priors and true ones: one pass of the encoder.

    None for a run that is not guided or was asked without a priors column.
    """
    network, _ = load_inference_model(run, device)
    if not network.guided or not prior.cached:
        return None
    grid = {
        f"{rho} {limit}": replace(prior, rho=rho, limit=limit)
        for rho, limit in itertools.product(sorted({*RHOS, prior.rho}), sorted({*LIMITS, prior.limit}))
    }
    grid |= {"none": PriorConfig(source="none"), "oracle": PriorConfig(source="oracle")}
    inference = replace(network.config.inference, restrict_to_present=False)
    variants = [Variant(name, one, inference) for name, one in grid.items()]
    found = infer(network, scene, variants, progress=progress).detections
    truth = ground_truth_of(scene.index, scene.protocol)
    cells = []
    for name, one in grid.items():
        figures = measure(scene.index, found[name], truth=truth).metrics
        known = plain({"base": figures.ap50_base, "novel": figures.ap50_novel})
        cells.append({"source": one.source, "rho": one.rho, "limit": one.limit, **known})
    return {"fill": prior.fill, "cells": cells, "own": {"rho": prior.rho, "limit": prior.limit}}
