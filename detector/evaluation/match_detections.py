"""Match detections with annotated boxes, one record per detection.

The rules are those of the engines, implemented on arrays. The engines compute the figures; these records are
used for confidence intervals, the best threshold and the report's error types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cckt.detector.evaluation.coco_engines import COCO_MAX_DETS, LVIS_MAX_DETS
from cckt.detector.evaluation.ground_truth import GroundTruth, Rows
from cckt.detector.evaluation.locate import LocatedDetections, keep_best_per_image, keep_verified
from cckt.detector.inference.own_evaluation import DEFAULT_THRESHOLD

Bools = npt.NDArray[np.bool_]

MATCH_IOU = 0.5
"""IoU above or at which a detection finds a box, in every count of errors."""
CHUNK = 1 << 18
"""Detections per block of IoU computation; bounds memory."""


@dataclass(frozen=True)
class DetectionMatches:
    """K scored detections, sorted by concept, then by falling score, image and given order.

    images, concepts: (K,) int64 numbers in the GroundTruth; scores: (K,); boxes_xywh: (K, 4) px.
    thresholds: T IoU thresholds. box: (T, K) int64, row of the matched box in the GroundTruth, -1 for none.
    ignored: (T, K) bool, counts neither as true nor as false positive: matched to a crowd, or unmatched where
    LVIS annotations are incomplete.
    """

    images: Rows
    concepts: Rows
    scores: npt.NDArray[np.float64]
    boxes_xywh: npt.NDArray[np.float64]
    thresholds: tuple[float, ...]
    box: Rows
    ignored: Bools

    @property
    def right(self) -> Bools:
        """(T, K) bool: true positives."""
        return (self.box >= 0) & ~self.ignored

    @property
    def wrong(self) -> Bools:
        """(T, K) bool: false positives."""
        return (self.box < 0) & ~self.ignored


def match_detections(
    truth: GroundTruth, found: LocatedDetections, thresholds: tuple[float, ...] = (0.5,)
) -> DetectionMatches:
    """Match greedily by falling score within each image and concept, as the COCO API does.

    A crowd can match any number of detections; IoU with a crowd is intersection over the area of the
    detection. At most 100 detections per image and concept are matched (COCO), or 300 per image (LVIS).
    """
    if truth.federated:
        found = keep_verified(keep_best_per_image(found, LVIS_MAX_DETS), truth)
    found = found.where(np.lexsort((-found.scores, found.images, found.concepts)))
    pair = found.concepts * len(truth.image_ids) + found.images
    rank = np.arange(len(pair)) - np.searchsorted(pair, pair)
    keep = rank < (LVIS_MAX_DETS if truth.federated else COCO_MAX_DETS[-1])
    found, pair, rank = found.where(keep), pair[keep], rank[keep]

    near = _candidates(truth, found, pair, min(thresholds))
    box = np.stack([_greedy(near, rank, truth.crowd, threshold) for threshold in thresholds])
    ignored = (box >= 0) & truth.crowd[box] if len(truth.crowd) else np.zeros(box.shape, bool)
    if truth.not_exhaustive is not None:
        ignored |= (box < 0) & truth.not_exhaustive[found.images, found.concepts]
    order = np.lexsort((-found.scores, found.concepts))
    found = found.where(order)
    return DetectionMatches(
        found.images,
        found.concepts,
        found.scores,
        found.boxes_xywh,
        thresholds,
        box[:, order],
        ignored[:, order],
    )


def best_f1(truth: GroundTruth, matches: DetectionMatches) -> dict[str, float]:
    """Return the score threshold with the highest F1 over all concepts, at the first IoU threshold.

    Returns score, precision, recall and f1. If no detection is correct, f1 is 0 at every score: the score is
    then DEFAULT_THRESHOLD, and the other values are 0.
    """
    counted = ~matches.ignored[0]
    order = np.argsort(-matches.scores[counted], kind="stable")
    scores, right = matches.scores[counted][order], matches.right[0][counted][order]
    if not right.any():
        return {"score": DEFAULT_THRESHOLD, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / max(1, int((~truth.crowd).sum()))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    # A threshold keeps all detections of equal score: only the last of them is a candidate.
    f1[:-1][scores[:-1] == scores[1:]] = -1
    best = int(f1.argmax())
    figures = {"score": scores[best], "precision": precision[best], "recall": recall[best], "f1": f1[best]}
    return {name: float(value) for name, value in figures.items()}


@dataclass(frozen=True)
class _Candidates:
    """P pairs of a detection and an overlapping box of its image and concept, sorted by detection.

    Pairs of one detection are in rising order of preference: crowds first, then by IoU, then by box row. The
    COCO API prefers the last of them.
    """

    detection: Rows
    box: Rows
    overlap: npt.NDArray[np.float64]


def _candidates(truth: GroundTruth, found: LocatedDetections, pair: Rows, least: float) -> _Candidates:
    """Return the pairs with IoU of at least `least`. pair: (K,) number of each (image, concept) pair."""
    truth_pair = truth.concepts * len(truth.image_ids) + truth.images
    order = np.argsort(truth_pair, kind="stable")
    truth_pair = truth_pair[order]
    first = np.searchsorted(truth_pair, pair)
    count = np.searchsorted(truth_pair, pair, side="right") - first
    kept: list[tuple[Rows, Rows, npt.NDArray[np.float64]]] = []
    for low in range(0, len(pair), CHUNK):
        part = slice(low, low + CHUNK)
        detection = np.repeat(np.arange(len(pair))[part], count[part])
        nth = np.arange(len(detection)) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
        box = order[first[detection] + nth]
        overlap = _overlap(found.boxes_xywh[detection], truth.boxes_xywh[box], truth.crowd[box])
        near = overlap >= min(least, 1 - 1e-10)
        kept.append((detection[near], box[near], overlap[near]))
    if not kept:
        return _Candidates(pair, pair, np.zeros(0))
    detection, box, overlap = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    order = np.lexsort((box, overlap, ~truth.crowd[box], detection))
    return _Candidates(detection[order], box[order], overlap[order])


def _greedy(near: _Candidates, rank: Rows, crowd: Bools, threshold: float) -> Rows:
    """Return (K,) the row of the box that each detection matches, -1 for none.

    rank: (K,) rank of a detection among those of its image and concept. Detections of one rank have no
    candidate box in common, so they are matched at once.
    """
    taken, free = np.full(len(rank), -1, np.int64), np.ones(len(crowd), bool)
    good = np.flatnonzero(near.overlap >= min(threshold, 1 - 1e-10))
    good = good[np.argsort(rank[near.detection[good]], kind="stable")]
    ends = np.searchsorted(rank[near.detection[good]], np.arange(rank.max(initial=-1) + 2))
    for low, high in pairwise(ends.tolist()):
        rows = good[low:high]
        rows = rows[free[near.box[rows]]]
        detection = near.detection[rows]
        best = rows[np.append(detection[1:] != detection[:-1], True)] if len(rows) else rows
        taken[near.detection[best]] = near.box[best]
        free[near.box[best]] = crowd[near.box[best]]
    return taken


def iou(
    boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64], crowd: Bools
) -> npt.NDArray[np.float64]:
    """Return (K, M) float64 IoU of xywh boxes; crowd: (M,), divide by the area of the first box instead."""
    return _overlap(boxes[:, None], others[None], crowd[None])


def _overlap(
    boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64], crowd: Bools
) -> npt.NDArray[np.float64]:
    """Return the IoU of boxes of broadcastable shapes (..., 4), (..., 4) and crowd (...)."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    side = np.clip(high - low, 0, None)
    shared = side[..., 0] * side[..., 1]
    area = boxes[..., 2] * boxes[..., 3]
    whole = np.where(crowd, area, area + others[..., 2] * others[..., 3] - shared)
    overlap: npt.NDArray[np.float64] = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return overlap


def group_by_image(truth: GroundTruth, rows: Rows, images: Rows, boxes: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Yield (rows, boxes) of each image that has some of `rows`.

    rows: detections; images: (K,) image of every detection; boxes: ascending rows of the truth boxes to use.
    """
    rows = rows[np.argsort(images[rows], kind="stable")]
    unique, starts = np.unique(images[rows], return_index=True)
    ends = [*starts.tolist(), len(rows)][1:]
    truth_images = truth.images[boxes]
    for image, low, high in zip(unique, starts.tolist(), ends, strict=True):
        first, last = np.searchsorted(truth_images, image), np.searchsorted(truth_images, image, "right")
        yield rows[low:high], boxes[first:last]


@dataclass(frozen=True)
class NovelObjects:
    """What becomes of the annotated novel objects, in the layout of Table I of HD-OVD (docs/method/hd_ovd.md,
    section 10): `base`, `novel` and `correct` add up to `selected`. Missing are those called a concept of the
    split "other", which some protocols score."""

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
    base, novel_ones, right = truth.in_split("base"), truth.in_split("novel"), concepts == own
    return NovelObjects(
        objects=len(novel),
        recalled=len(recalled),
        selected=int(kept.sum()),
        base=int(base[concepts].sum()),
        novel=int((novel_ones[concepts] & ~right).sum()),
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
