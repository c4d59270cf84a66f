"""What novel things are taken for: themselves, their nearest base concepts, something else, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cckt.detector.evaluation.ground_truth import GroundTruth, Rows
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import iou
from cckt.detector.report.errors import FOUND, by_photo


@dataclass(frozen=True)
class Neighbour:
    """A base concept, the cosine of its text with the novel one's, and how many boxes were taken for it."""

    name: str
    cosine: float
    boxes: int


@dataclass(frozen=True)
class Confused:
    """One novel concept: its boxes, and what the surest detection on each of them (IoU 0.5) says.

    right, base, novel, nothing: how many were called by their name, a base one, another novel one, not found.
    nearest: the base concepts whose text is nearest, nearest first. taken_for: the base concepts that its
    boxes were taken for, most first.
    """

    name: str
    boxes: int
    right: int
    base: int
    novel: int
    nothing: int
    nearest: tuple[Neighbour, ...]
    taken_for: tuple[Neighbour, ...]


def confusion(
    truth: GroundTruth, found: LocatedDetections, text: npt.NDArray[np.floating], *, nearest: int = 5
) -> list[Confused]:
    """Every novel concept with a box, those most often mistaken first.

    text: (C, D) unit, of the truth's concepts. All detections count, however unsure.
    """
    said = said_of(truth, found)
    cosine = np.asarray(text, np.float64) @ np.asarray(text, np.float64).T
    base = np.flatnonzero(truth.in_split("base"))
    answer = []
    for concept in np.flatnonzero(truth.in_split("novel")):
        names = said[(truth.concepts == concept) & ~truth.crowd]
        if not len(names):
            continue
        counts = np.bincount(names[names >= 0], minlength=len(truth.names))

        def neighbour(other: int, concept: int = int(concept), counts: Rows = counts) -> Neighbour:
            return Neighbour(truth.names[other], float(cosine[concept, other]), int(counts[other]))

        by_text = base[np.argsort(-cosine[concept, base], kind="stable")][:nearest]
        by_count = base[np.argsort(-counts[base], kind="stable")][:nearest]
        answer.append(
            Confused(
                name=truth.names[concept],
                boxes=len(names),
                right=int(counts[concept]),
                base=int(counts[base].sum()),
                novel=int(counts.sum() - counts[base].sum() - counts[concept]),
                nothing=int((names < 0).sum()),
                nearest=tuple(neighbour(int(one)) for one in by_text),
                taken_for=tuple(neighbour(int(one)) for one in by_count if counts[one]),
            )
        )
    return sorted(answer, key=lambda one: (one.right / one.boxes, one.name))


def said_of(truth: GroundTruth, found: LocatedDetections) -> Rows:
    """(M,) the concept that the surest detection on each box names, whatever the box is; -1 for none."""
    said = np.full(len(truth.images), -1, np.int64)
    real = np.flatnonzero(~truth.crowd)
    for rows, boxes in by_photo(truth, np.arange(len(found.scores)), found.images, real):
        overlap = iou(found.boxes_xywh[rows], truth.boxes_xywh[boxes], np.zeros(len(boxes), bool))
        surest = np.where(overlap >= FOUND, found.scores[rows][:, None], -np.inf)
        if surest.size:
            at = surest.argmax(0)
            seen = np.isfinite(surest.max(0))
            said[boxes[seen]] = found.concepts[rows][at[seen]]
    return said
