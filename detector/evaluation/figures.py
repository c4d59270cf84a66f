"""From detections on a scene to everything that is said about them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from cache_builder.vocabulary import normalise_name
from detector.checkpoint import Facts
from detector.evaluation.bootstrap import intervals, thresholds_for
from detector.evaluation.engines import curves
from detector.evaluation.inference import Inferred, Variant
from detector.evaluation.matches import best_f1, match
from detector.evaluation.metrics import Metrics, summarise
from detector.evaluation.scene import Scene
from detector.evaluation.truth import locate, truth_of


def scored(
    scene: Scene,
    inferred: Inferred,
    variant: Variant,
    engine: str,
    resamples: int,
    facts: Facts | None,
) -> Metrics:
    """The protocol's figures of one variant's detections, with the settings and the pace of inference.

    resamples: above 0, with bootstrap intervals. facts: of the run, to tell concepts it was trained on from
    the others; None leaves that out.
    """
    detections = inferred.detections[variant.name]
    truth = truth_of(scene.index, scene.protocol)
    found = locate(detections, scene.index, truth)
    metrics = summarise(truth, curves(truth, found, engine), detections=len(detections), engine=engine)
    matches = match(truth, found)
    if resamples:
        thresholds = thresholds_for(truth)
        finer = matches if len(thresholds) == 1 else match(truth, found, thresholds)
        metrics = replace(metrics, intervals=intervals(truth, finer, resamples=resamples))
    figures: dict[str, Any] = {
        "data": str(scene.index.folder),
        "index_digest": scene.index.digest,
        "prior": asdict(variant.prior),
        "inference": asdict(variant.inference),
        "photos_unreadable": len(inferred.faults),
        "seconds": inferred.seconds,
        "images_per_second": inferred.images_per_second,
        "best_f1": best_f1(truth, matches),
        "transfer": None if facts is None else _transfer(metrics, facts),
    }
    return replace(metrics, figures=figures)


def _transfer(metrics: Metrics, facts: Facts) -> dict[str, Any]:
    """AP50 over the concepts that the run was trained on by that name, and over the others."""
    trained = {normalise_name(name) for name in facts.names}
    answer: dict[str, Any] = {}
    for word, wanted in (("trained_on", True), ("unseen", False)):
        ours = [one for one in metrics.per_concept if (normalise_name(one.name) in trained) == wanted]
        known = [one.ap50 for one in ours if one.ap50 == one.ap50]
        answer |= {f"concepts_{word}": len(ours), f"ap50_{word}": sum(known) / len(known) if known else None}
    return answer
