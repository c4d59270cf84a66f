"""Which detection found which box: one record a detection.

The same rules as the engines', written once more over arrays; the engines give the
figures, the records give the intervals, the curves and the kinds of errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.evaluation.engines import COCO_MAX_DETS, LVIS_MAX_DETS
from detector.evaluation.truth import Found, Rows, Truth, cap_per_photo

Bools = npt.NDArray[np.bool_]


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
    found, pair = found.where(keep), pair[keep]

    box = np.full((len(thresholds), len(pair)), -1, np.int64)
    truth_pair = truth.concepts * len(truth.image_ids) + truth.images
    # Crowds last: a box of its own is preferred.
    truth_order = np.lexsort((truth.crowd, truth_pair))
    truth_pair = truth_pair[truth_order]
    for one in np.intersect1d(pair, truth_pair):
        low, high = np.searchsorted(pair, one), np.searchsorted(pair, one, side="right")
        rows = truth_order[np.searchsorted(truth_pair, one) : np.searchsorted(truth_pair, one, side="right")]
        overlap = iou(found.boxes_xywh[low:high], truth.boxes_xywh[rows], truth.crowd[rows])
        for number, threshold in enumerate(thresholds):
            chosen = _greedy(overlap, truth.crowd[rows], threshold)
            box[number, low:high] = np.where(chosen >= 0, rows[chosen], -1)
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


def _greedy(overlap: npt.NDArray[np.float64], crowd: Bools, threshold: float) -> Rows:
    """overlap: (K, M), crowds in the last columns. (K,) the column each row takes, -1 for none."""
    chosen = np.full(len(overlap), -1, np.int64)
    free = np.ones(len(crowd), bool)
    least = min(threshold, 1 - 1e-10)
    for row, values in enumerate(overlap):
        for candidates in (free & ~crowd, crowd):
            good = candidates & (values >= least)
            if good.any():
                # Of equal overlaps the last box wins, as in the COCO API.
                best = np.flatnonzero(good & (values == values[good].max()))[-1]
                chosen[row], free[best] = best, crowd[best]
                break
    return chosen


def iou(
    boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64], crowd: Bools
) -> npt.NDArray[np.float64]:
    """(K, M) float64 IoU of xywh boxes; over the first one's own area where the second is a crowd."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:])
    side = np.clip(high - low, 0, None)
    shared = side[..., 0] * side[..., 1]
    area = (boxes[:, 2] * boxes[:, 3])[:, None]
    whole = np.where(crowd[None], area, area + (others[:, 2] * others[:, 3])[None] - shared)
    overlap: npt.NDArray[np.float64] = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return overlap
