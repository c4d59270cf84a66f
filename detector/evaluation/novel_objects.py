"""Count what becomes of the novel objects: found, kept by the score, and called what.

The layout of Table I of HD-OVD (docs/method/hd_ovd.md, section 10). It separates the two ways to miss a novel
object: no box finds it (recall), or a box finds it and has another name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cckt.detector.evaluation.ground_truth import GroundTruth, Rows
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import MATCH_IOU, group_by_image, iou


@dataclass(frozen=True)
class NovelObjects:
    """Counts of the annotated novel objects; base, novel and correct add up to selected."""

    objects: int
    """All of them."""
    recalled: int
    """Those that some detection, of any concept and score, overlaps (IoU 0.5)."""
    selected: int
    """Those whose best-scored overlapping detection reaches the threshold."""
    base: int
    """Selected ones whose best detection has a base concept."""
    novel: int
    """Selected ones whose best detection has another novel concept."""
    correct: int
    """Selected ones whose best detection has the right concept."""
    threshold: float
    """Score from which a detection is kept."""


def count_novel_objects(truth: GroundTruth, found: LocatedDetections, threshold: float) -> NovelObjects:
    """Return the counts for the novel objects of `truth`, crowds excluded.

    threshold: smallest score of a detection that is kept, such as that of the best F1.
    """
    novel = np.flatnonzero(truth.in_split("novel")[truth.concepts] & ~truth.crowd)
    best = best_detections(truth, found)[novel]
    recalled = novel[best >= 0]
    best = best[best >= 0]
    kept = found.scores[best] >= threshold
    concepts, own = found.concepts[best][kept], truth.concepts[recalled][kept]
    is_base, right = truth.in_split("base")[concepts], concepts == own
    return NovelObjects(
        objects=len(novel),
        recalled=len(recalled),
        selected=int(kept.sum()),
        base=int(is_base.sum()),
        novel=int((~is_base & ~right).sum()),
        correct=int(right.sum()),
        threshold=threshold,
    )


def best_detections(truth: GroundTruth, found: LocatedDetections) -> Rows:
    """Return (M,) the row of the best-scored detection that overlaps each box of `truth`; -1 for none, and
    for crowds."""
    best = np.full(len(truth.images), -1, np.int64)
    boxes_without_crowds = np.flatnonzero(~truth.crowd)
    all_rows = np.arange(len(found.scores))
    for rows, boxes in group_by_image(truth, all_rows, found.images, boxes_without_crowds):
        overlap = iou(found.boxes_xywh[rows], truth.boxes_xywh[boxes], np.zeros(len(boxes), bool))
        scores = np.where(overlap >= MATCH_IOU, found.scores[rows][:, None], -np.inf)
        if scores.size:
            overlapped = np.isfinite(scores.max(0))
            best[boxes[overlapped]] = rows[scores.argmax(0)[overlapped]]
    return best
