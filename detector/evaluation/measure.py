"""From detections to metrics, matches and confidence intervals."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index
from cckt.cache_builder.vocabulary import normalise_name
from cckt.detector.evaluation.bootstrap import intervals, thresholds_for
from cckt.detector.evaluation.coco_engines import Curves, curves
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluation_set import EvaluationSet
from cckt.detector.evaluation.ground_truth import GroundTruth, ground_truth_of
from cckt.detector.evaluation.inference_loop import InferenceResult, Variant
from cckt.detector.evaluation.locate import LocatedDetections, locate_detections
from cckt.detector.evaluation.match_detections import (
    DetectionMatches,
    best_f1,
    count_novel_objects,
    match_detections,
)
from cckt.detector.evaluation.metrics import Metrics, summarise
from cckt.detector.evaluation.protocols import Protocol
from cckt.detector.runs.run_folder import Facts


@dataclass(frozen=True)
class Measurement:
    """Detections with their ground truth, curves and metrics under a protocol."""

    truth: GroundTruth
    found: LocatedDetections
    curves: Curves
    metrics: Metrics

    @cached_property
    def matches(self) -> DetectionMatches:
        """Matches at IoU 0.5."""
        return match_detections(self.truth, self.found)

    @cached_property
    def headline_matches(self) -> DetectionMatches:
        """Matches at every IoU threshold that the headline figures of the protocol need."""
        thresholds = thresholds_for(self.truth)
        return self.matches if thresholds == (0.5,) else match_detections(self.truth, self.found, thresholds)

    def counts(self) -> dict[str, Any]:
        """Return "best_f1", the best threshold, and "novel_objects", what becomes of them at that score."""
        best = best_f1(self.truth, self.matches)
        objects = count_novel_objects(self.truth, self.found, best["score"])
        return {"best_f1": best, "novel_objects": asdict(objects)}

    def with_intervals(self, resamples: int, seed: int = 0, progress: Progress | None = None) -> Metrics:
        """Return the metrics with bootstrap intervals of the headline figures; 0 resamples adds none."""
        if not resamples:
            return self.metrics
        matches = self.headline_matches
        drawn = intervals(self.truth, matches, resamples=resamples, seed=seed, progress=progress)
        return replace(self.metrics, intervals=drawn)


def measure(
    index: Index,
    detections: Detections,
    protocol: Protocol | str = "auto",
    engine: str = "hotcoco",
    truth: GroundTruth | None = None,
) -> Measurement:
    """Score detections on an index.

    truth: the ground truth of this index and protocol, if the caller has it; None builds it. Detections of
    concepts that the protocol does not score are dropped. Raises UserError as `locate_detections` does, and
    for an unknown engine or protocol or one that does not fit the index.
    """
    truth = truth or ground_truth_of(index, protocol)
    found = locate_detections(detections, index, truth)
    table = curves(truth, found, engine)
    metrics = summarise(truth, table, detections=len(detections), engine=engine)
    return Measurement(truth, found, table, metrics)


def metrics_of_variant(
    dataset: EvaluationSet,
    inferred: InferenceResult,
    variant: Variant,
    engine: str,
    resamples: int,
    facts: Facts | None,
    progress: Progress | None = None,
) -> Metrics:
    """Return the metrics of one variant's detections, with the settings and the speed of inference.

    resamples: bootstrap resamples; 0 for no intervals. facts: of the run, for separate AP50 of the concepts
    that it was trained on; None leaves them out.
    """
    known = measure(dataset.index, inferred.detections[variant.name], dataset.protocol, engine)
    metrics = known.with_intervals(resamples, progress=progress)
    figures: dict[str, Any] = {
        "data": str(dataset.index.folder),
        "index_digest": dataset.index.digest,
        "prior": asdict(variant.prior),
        "prior_tau": dataset.prior_tau(variant.prior),
        "inference": asdict(variant.inference),
        "photos_unreadable": len(inferred.faults),
        "seconds": inferred.seconds,
        "images_per_second": inferred.images_per_second,
        **known.counts(),
        "transfer": None if facts is None else _transfer(metrics, facts),
    }
    return replace(metrics, figures=figures)


def _transfer(metrics: Metrics, facts: Facts) -> dict[str, Any]:
    """Return AP50 of the concepts that the run was trained on by annotated boxes, and of all others."""
    trained = facts.annotated
    answer: dict[str, Any] = {}
    for word, was_trained in (("trained_on", True), ("unseen", False)):
        ours = [one for one in metrics.per_concept if (normalise_name(one.name) in trained) == was_trained]
        known = [one.ap50 for one in ours if not math.isnan(one.ap50)]
        answer |= {f"concepts_{word}": len(ours), f"ap50_{word}": sum(known) / len(known) if known else None}
    return answer
