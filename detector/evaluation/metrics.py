"""The figures of an evaluation: AP50 base, novel and all, AP, APr, and AP per concept."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.atomic_files import plain
from cckt.detector.evaluation.bootstrap import Interval
from cckt.detector.evaluation.coco_engines import AREA_RANGES, AREAS, Curves
from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.protocols import PROTOCOLS, SPLIT_FIGURES, Protocol

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
"""Names of figures as papers print them."""
FEW_BOXES = 10
"""A figure that averages over fewer boxes is marked with their number."""


@dataclass(frozen=True)
class ConceptFigures:
    """Boxes (without crowds), AP (mean over IoU .50:.95), AP50 and AP75 of a concept; NaN without a box."""

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
    """All figures of one evaluation, in [0, 1]; NaN if there is no box to find (-1 in the protocol)."""

    ap50_base: float
    ap50_novel: float
    ap50_all: float
    """Mean AP50 of the concepts of a split that have a box (docs/method/cckt_det.md, section 1)."""
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
    """AP of rare, common and frequent concepts of LVIS; NaN for data sets without frequencies."""
    ar_1: float
    ar_10: float
    ar_most: float
    """Recall averaged over IoU, with at most 100 (COCO) or 300 (LVIS) detections per image."""
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
    """Bootstrap intervals by the name of the figure; empty without resamples."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Settings and measurements of a run: images per second, priors, thresholds, digests."""
    boxes_per_figure: dict[str, int] = field(default_factory=dict)
    """Annotated boxes (without crowds) that a figure averages over, by its name."""

    @property
    def stats(self) -> tuple[float, ...]:
        """The twelve numbers of the COCO API in its order, -1 in place of NaN."""
        values = (self.ap, self.ap50_all, self.ap75, self.ap_small, self.ap_medium, self.ap_large)
        recalls = (self.ar_1, self.ar_10, self.ar_most, self.ar_small, self.ar_medium, self.ar_large)
        return tuple(-1.0 if math.isnan(value) else value for value in (*values, *recalls))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json: None in place of NaN, `per_concept` as a list of dicts."""
        answer: dict[str, Any] = plain(asdict(self))
        return answer

    def rows(self) -> list[tuple[str, str]]:
        """Return the headline figures as (label, text).

        The text is the value in percent, its interval if there is one, and the number of boxes if it is below
        FEW_BOXES; a dash in place of NaN.
        """
        protocol = PROTOCOLS[self.protocol]
        split = () if protocol.scores_other else SPLIT_FIGURES
        sizes = ("ap75", "ap_small", "ap_medium", "ap_large")
        names = dict.fromkeys((*protocol.headline, *split, *sizes))
        return [(figure_label(name, protocol), self._cell(name)) for name in names]

    def _cell(self, name: str) -> str:
        interval = self.intervals.get(name)
        known = interval is not None and not math.isnan(interval.low)
        span = f" ({percent(interval.low)} to {percent(interval.high)})" if interval and known else ""
        value, boxes = getattr(self, name), self.boxes_per_figure.get(name, FEW_BOXES)
        few = (
            f", only {boxes} box{'es' * (boxes != 1)}" if boxes < FEW_BOXES and not math.isnan(value) else ""
        )
        return percent(value) + span + few

    def concept_rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return (concept, split, boxes, AP50, AP): novel first, by falling AP50, without boxes last."""

        def order(concept: ConceptFigures) -> tuple[bool, bool, float, str]:
            missing = math.isnan(concept.ap50)
            return (missing, concept.split != "novel", 0.0 if missing else -concept.ap50, concept.name)

        return [
            (c.name, c.split, str(c.boxes), percent(c.ap50), percent(c.ap))
            for c in sorted(self.per_concept, key=order)
        ]


FIGURES = frozenset(one.name for one in fields(Metrics) if one.type == "float")
"""Names of the figures that are a single number."""


def figure_label(name: str, protocol: Protocol) -> str:
    """Return the label of a figure; without base and novel, AP50 of all concepts is just "AP50"."""
    return "AP50" if name == "ap50_all" and protocol.scores_other else LABELS[name]


def percent(value: float | None) -> str:
    """0.4567 -> "45.7"; None and NaN -> a dash."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def summarise(truth: GroundTruth, result: Curves, *, detections: int, engine: str) -> Metrics:
    """Average curves as the COCO and LVIS APIs do: over all entries that are not -1; NaN without any.

    detections: number of detections given, before any limit.
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
        # LVIS has a single limit, 300, and no recall at 1 and 10.
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
        boxes_per_figure=_boxes_per_figure(truth),
    )


def _boxes_per_figure(truth: GroundTruth) -> dict[str, int]:
    real = ~truth.crowd
    of_concept = truth.concepts[real]

    def count(concepts: npt.NDArray[np.bool_]) -> int:
        return int(concepts[of_concept].sum())

    frequency = np.array(truth.frequencies)
    sizes = {}
    for area, (low, high) in zip(AREAS, AREA_RANGES, strict=True):
        sizes[area] = int(((truth.areas[real] >= low) & (truth.areas[real] <= high)).sum())
    return {
        **dict.fromkeys(("ap50_all", "ap", "ap75"), int(real.sum())),
        **dict.fromkeys(("ap50_base", "ap_base"), count(truth.in_split("base"))),
        **dict.fromkeys(("ap50_novel", "ap_novel"), count(truth.in_split("novel"))),
        **{f"ap_{area}": sizes[area] for area in AREAS[1:]},
        **{f"ap_{letter}": count(frequency == letter) for letter in "rcf"},
    }


def _per_concept(truth: GroundTruth, result: Curves) -> tuple[ConceptFigures, ...]:
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
    """Return the mean of the entries that are not -1, NaN without any."""
    known = table[table > -1]
    return float(known.mean()) if known.size else NAN
