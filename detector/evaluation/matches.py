"""Which detection found which box: one record a detection.

The same rules as the engines', written once more over arrays; the engines give the figures, the records give
the intervals, the curves and the kinds of errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cckt.detector.evaluation.engines import COCO_MAX_DETS, LVIS_MAX_DETS
from cckt.detector.evaluation.truth import Found, Rows, Truth, cap_per_photo

Bools = npt.NDArray[np.bool_]

CHUNK = 1 << 18
"""Detections whose IoUs are computed at once."""


@dataclass(frozen=True)
class Matches:
    """K detections that count, by concept, then by falling score (equal scores by photo, then as given).

    images, concepts: (K,) int64 numbers in the Truth; scores: (K,); boxes_xywh: (K, 4) px.
    thresholds: T IoU thresholds. box: (T, K) int64, row of the Truth's boxes that was matched, -1 for none.
    ignored: (T, K) bool, neither right nor wrong: matched a crowd, or LVIS does not know.
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


def match(truth: Truth, found: Found, thresholds: tuple[float, ...] = (0.5,)) -> Matches:
    """Greedy matching by falling score within each photo and concept, as the COCO API does it.

    A crowd takes any number of detections, and IoU with it is intersection over the detection's own area. At
    most 100 detections a photo and concept (COCO), or 300 a photo (LVIS).
    """
    if truth.negative is not None:
        found = cap_per_photo(found, LVIS_MAX_DETS)
        checked = truth.negative.copy()
        checked[truth.images, truth.concepts] = True
        found = found.where(checked[found.images, found.concepts])
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
    return Matches(
        found.images,
        found.concepts,
        found.scores,
        found.boxes_xywh,
        thresholds,
        box[:, order],
        ignored[:, order],
    )


def best_f1(truth: Truth, matches: Matches) -> dict[str, float]:
    """The score from which on finds are kept with the highest F1 over all concepts, at the first threshold.

    Returns score, precision, recall and f1; a score of 1 and zeros where nothing is right.
    """
    counted = ~matches.ignored[0]
    order = np.argsort(-matches.scores[counted], kind="stable")
    scores, right = matches.scores[counted][order], matches.right[0][counted][order]
    if not right.any():
        return {"score": 1.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / max(1, int((~truth.crowd).sum()))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    # Equal scores stand or fall together.
    f1[:-1][scores[:-1] == scores[1:]] = -1
    best = int(f1.argmax())
    figures = {"score": scores[best], "precision": precision[best], "recall": recall[best], "f1": f1[best]}
    return {name: float(value) for name, value in figures.items()}


@dataclass(frozen=True)
class _Candidates:
    """P pairs of a detection and a box of its photo and concept that it overlaps, by detection.

    Within one the better stands later: crowds before boxes of their own, then by rising IoU, and of equal
    ones the later box, as the COCO API has it.
    """

    detection: Rows
    box: Rows
    overlap: npt.NDArray[np.float64]


def _candidates(truth: Truth, found: Found, pair: Rows, least: float) -> _Candidates:
    """Those of at least the IoU `least`. pair: (K,) the number of each detection's photo and concept."""
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
    """(K,) row of the box that each detection takes, -1 for none.

    rank: (K,) place among the detections of the same photo and concept; those of one rank have no box in
    common, so all of them choose at once.
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
    """(K, M) float64 IoU of xywh boxes; over the first one's own area where the second is a crowd."""
    return _overlap(boxes[:, None], others[None], crowd[None])


def _overlap(
    boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64], crowd: Bools
) -> npt.NDArray[np.float64]:
    """The same of shapes (..., 4), (..., 4) and (...) that go together."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    side = np.clip(high - low, 0, None)
    shared = side[..., 0] * side[..., 1]
    area = boxes[..., 2] * boxes[..., 3]
    whole = np.where(crowd, area, area + others[..., 2] * others[..., 3] - shared)
    overlap: npt.NDArray[np.float64] = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return overlap
