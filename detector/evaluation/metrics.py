"""From curves to the figures people compare: AP50 of base, novel and all, AP, and AP by concept."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.atomic_files import plain
from cckt.detector.evaluation.bootstrap import Interval
from cckt.detector.evaluation.engines import AREAS, Curves
from cckt.detector.evaluation.protocols import PROTOCOLS, SPLIT_FIGURES, Protocol
from cckt.detector.evaluation.truth import Truth

NAN = float("nan")
LABELS = {
    "ap50_base": "AP50 base",
    "ap50_novel": "AP50 novel",
    "ap50_all": "AP50 all",
    "ap": "AP",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ap_r": "APr",
    "ap_c": "APc",
    "ap_f": "APf",
}
"""Figures as people call them."""


@dataclass(frozen=True)
class ConceptFigures:
    """One concept: its boxes (no crowds), AP (mean over IoU .50:.95), AP50 and AP75, nan without a box."""

    category_id: int
    name: str
    split: str
    frequency: str
    boxes: int
    ap: float
    ap50: float
    ap75: float


@dataclass(frozen=True)
class Metrics:
    """All figures of one evaluation, in [0, 1]; nan where nothing could be measured (-1 in the protocol)."""

    ap50_base: float
    ap50_novel: float
    ap50_all: float
    """Means of AP50 over the concepts of the split that have a box (METHOD.md section 1)."""
    ap: float
    ap75: float
    ap_base: float
    ap_novel: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ap_r: float
    ap_c: float
    ap_f: float
    """AP over LVIS's rare, common and frequent concepts; nan for data sets without frequencies."""
    ar_1: float
    ar_10: float
    ar_most: float
    """Recall averaged over IoU at the protocol's last limit: 100 (COCO) or 300 (LVIS) detections."""
    ar_small: float
    ar_medium: float
    ar_large: float
    protocol: str
    engine: str
    photos: int
    boxes: int
    detections: int
    per_concept: tuple[ConceptFigures, ...]
    intervals: dict[str, Interval] = field(default_factory=dict)
    """Bootstrap intervals by the figure's name, where they were asked for."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What else is worth keeping: images per second, priors, thresholds, digests."""

    @property
    def stats(self) -> tuple[float, ...]:
        """The COCO API's twelve numbers in its order, -1 where there is nothing."""
        values = (self.ap, self.ap50_all, self.ap75, self.ap_small, self.ap_medium, self.ap_large)
        recalls = (self.ar_1, self.ar_10, self.ar_most, self.ar_small, self.ar_medium, self.ar_large)
        return tuple(-1.0 if math.isnan(value) else value for value in (*values, *recalls))

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json: plain types, None in place of nan, `per_concept` as a list of dicts."""
        answer: dict[str, Any] = plain(asdict(self))
        return answer

    def rows(self) -> list[tuple[str, str]]:
        """The headline figures as (label, percent with its interval if there is one); a dash for none."""
        protocol = PROTOCOLS[self.protocol]
        split = () if protocol.everything else SPLIT_FIGURES
        sizes = ("ap75", "ap_small", "ap_medium", "ap_large")
        names = dict.fromkeys((*protocol.headline, *split, *sizes))
        return [(label_of(name, protocol), self._cell(name)) for name in names]

    def _cell(self, name: str) -> str:
        interval = self.intervals.get(name)
        known = interval is not None and not math.isnan(interval.low)
        span = f" ({percent(interval.low)} to {percent(interval.high)})" if interval and known else ""
        return percent(getattr(self, name)) + span

    def concept_rows(self) -> list[tuple[str, str, str, str, str]]:
        """(concept, split, boxes, AP50, AP), novel ones first, then by falling AP50; without boxes last."""

        def order(concept: ConceptFigures) -> tuple[bool, bool, float, str]:
            missing = math.isnan(concept.ap50)
            return (missing, concept.split != "novel", 0.0 if missing else -concept.ap50, concept.name)

        return [
            (c.name, c.split, str(c.boxes), percent(c.ap50), percent(c.ap))
            for c in sorted(self.per_concept, key=order)
        ]


FIGURES = frozenset(one.name for one in fields(Metrics) if one.type == "float")
"""Names of the figures that are one number."""


def label_of(name: str, protocol: Protocol) -> str:
    """A figure's label; where there is no split, AP50 is of all concepts without saying so."""
    return "AP50" if name == "ap50_all" and protocol.everything else LABELS[name]


def percent(value: float | None) -> str:
    """0.4567 -> "45.7"; None and nan -> a dash."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def summarise(truth: Truth, result: Curves, *, detections: int, engine: str) -> Metrics:
    """Means as the COCO and LVIS APIs take them: over every entry that is not -1, -1 (here nan) for none.

    detections: how many were given, before any limit.
    """
    everything = np.ones(len(truth.names), bool)
    base, novel = truth.in_split("base"), truth.in_split("novel")
    frequency = np.array(truth.frequencies)

    def precision(concepts: npt.NDArray[np.bool_], iou: int | None = None, area: str = "all") -> float:
        table = result.precision[:, :, concepts, AREAS.index(area), -1]
        return _mean(table if iou is None else table[iou])

    def recall(limit: int = -1, area: str = "all") -> float:
        return _mean(result.recall[:, :, AREAS.index(area), limit])

    return Metrics(
        ap50_base=precision(base, iou=0),
        ap50_novel=precision(novel, iou=0),
        ap50_all=precision(everything, iou=0),
        ap=precision(everything),
        ap75=precision(everything, iou=5),
        ap_base=precision(base),
        ap_novel=precision(novel),
        ap_small=precision(everything, area="small"),
        ap_medium=precision(everything, area="medium"),
        ap_large=precision(everything, area="large"),
        ap_r=precision(frequency == "r"),
        ap_c=precision(frequency == "c"),
        ap_f=precision(frequency == "f"),
        # LVIS has one limit, 300, and no recall at 1 and 10.
        ar_1=NAN if truth.federated else recall(0),
        ar_10=NAN if truth.federated else recall(1),
        ar_most=recall(),
        ar_small=recall(area="small"),
        ar_medium=recall(area="medium"),
        ar_large=recall(area="large"),
        protocol=truth.protocol or ("ov-lvis" if truth.federated else "custom"),
        engine=engine,
        photos=len(truth.image_ids),
        boxes=int((~truth.crowd).sum()),
        detections=detections,
        per_concept=_per_concept(truth, result),
    )


def _per_concept(truth: Truth, result: Curves) -> tuple[ConceptFigures, ...]:
    boxes = np.bincount(truth.concepts[~truth.crowd], minlength=len(truth.names))
    table = result.precision[:, :, :, 0, -1]
    return tuple(
        ConceptFigures(
            category_id=int(truth.category_ids[c]),
            name=truth.names[c],
            split=truth.splits[c],
            frequency=truth.frequencies[c],
            boxes=int(boxes[c]),
            ap=_mean(table[:, :, c]),
            ap50=_mean(table[0, :, c]),
            ap75=_mean(table[5, :, c]),
        )
        for c in range(len(truth.names))
    )


def _mean(table: npt.NDArray[np.float64]) -> float:
    known = table[table > -1]
    return float(known.mean()) if known.size else NAN
