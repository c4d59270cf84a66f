"""Score detections against an index: the figures of the papers, by the rules of the COCO and LVIS APIs."""

from __future__ import annotations

from dataclasses import replace

from cache_builder.errors import UserError
from cache_builder.index import Index
from detector.evaluation.bootstrap import Comparison, compare, intervals
from detector.evaluation.detections import Detections
from detector.evaluation.engines import curves
from detector.evaluation.matches import match
from detector.evaluation.metrics import Metrics, summarise
from detector.evaluation.truth import Truth, locate, truth_of

PROTOCOLS = ("auto", "coco", "lvis")


def evaluate_detections(
    index: Index,
    detections: Detections,
    *,
    engine: str = "hotcoco",
    protocol: str = "auto",
    resamples: int = 0,
    seed: int = 0,
) -> Metrics:
    """Score any detections, ours or not, over the index's base and novel concepts.

    engine: "hotcoco" (fast) or "pycocotools" (the oracle); the figures are the same. protocol: "coco" (100
    detections a photo and concept), "lvis" (federated, 300 a photo), "auto": lvis if the concepts have
    frequencies.
    resamples: above 0, bootstrap intervals over photos for AP50 base, novel and all are added.
    `other` concepts are no ground truth, and detections of them are dropped. Raises UserError for ids that
    the index does not have. Source: METHOD.md section 1.
    """
    truth = _truth(index, protocol)
    found = locate(detections, index, truth)
    metrics = summarise(truth, curves(truth, found, engine), detections=len(detections), engine=engine)
    if resamples:
        drawn = intervals(truth, match(truth, found), resamples=resamples, seed=seed)
        metrics = replace(metrics, intervals=drawn)
    return metrics


def compare_detections(
    index: Index,
    a: Detections,
    b: Detections,
    *,
    protocol: str = "auto",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Whether AP50 base, novel and all of B differ from A's: paired bootstrap over the photos."""
    truth = _truth(index, protocol)
    matches = [match(truth, locate(detections, index, truth)) for detections in (a, b)]
    return compare(truth, *matches, resamples=resamples, seed=seed)


def _truth(index: Index, protocol: str) -> Truth:
    if protocol not in PROTOCOLS:
        raise UserError(f"--protocol {protocol} is not known; expected one of {', '.join(PROTOCOLS)}.")
    return truth_of(index, federated={"auto": None, "coco": False, "lvis": True}[protocol])
