"""From detections on a scene to everything that is said about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from cckt.cache_builder.index import Index
from cckt.cache_builder.vocabulary import normalise_name
from cckt.detector.evaluation.bootstrap import intervals, thresholds_for
from cckt.detector.evaluation.detect import Inferred, Variant
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.engines import Curves, curves
from cckt.detector.evaluation.matches import Matches, best_f1, match
from cckt.detector.evaluation.metrics import Metrics, summarise
from cckt.detector.evaluation.protocols import Protocol
from cckt.detector.evaluation.scene import Scene
from cckt.detector.evaluation.truth import Found, Truth, locate, truth_of
from cckt.detector.runs.run_folder import Facts


@dataclass(frozen=True)
class Measured:
    """Detections against the truth under a protocol, and what is drawn from both."""

    truth: Truth
    found: Found
    curves: Curves
    metrics: Metrics

    @cached_property
    def matches(self) -> Matches:
        """The matching at IoU 0.5."""
        return match(self.truth, self.found)

    @cached_property
    def finer(self) -> Matches:
        """The matching at every IoU that a headline figure of the protocol needs."""
        thresholds = thresholds_for(self.truth)
        return self.matches if thresholds == (0.5,) else match(self.truth, self.found, thresholds)

    def with_intervals(self, resamples: int, seed: int = 0) -> Metrics:
        """The metrics with bootstrap intervals of the protocol's headline figures, none for 0."""
        if not resamples:
            return self.metrics
        drawn = intervals(self.truth, self.finer, resamples=resamples, seed=seed)
        return replace(self.metrics, intervals=drawn)


def measure(
    index: Index,
    detections: Detections,
    protocol: Protocol | str = "auto",
    engine: str = "hotcoco",
    truth: Truth | None = None,
) -> Measured:
    """Score detections on an index.

    truth: of this index and protocol, where many detections are measured against one; None makes it.
    Detections of concepts that the protocol ignores are dropped. Raises UserError for ids that the index does
    not have, an unknown engine or protocol, and one that does not fit.
    """
    truth = truth or truth_of(index, protocol)
    found = locate(detections, index, truth)
    table = curves(truth, found, engine)
    metrics = summarise(truth, table, detections=len(detections), engine=engine)
    return Measured(truth, found, table, metrics)


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
    known = measure(scene.index, inferred.detections[variant.name], scene.protocol, engine)
    metrics = known.with_intervals(resamples)
    figures: dict[str, Any] = {
        "data": str(scene.index.folder),
        "index_digest": scene.index.digest,
        "prior": asdict(variant.prior),
        "inference": asdict(variant.inference),
        "photos_unreadable": len(inferred.faults),
        "seconds": inferred.seconds,
        "images_per_second": inferred.images_per_second,
        "best_f1": best_f1(known.truth, known.matches),
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
