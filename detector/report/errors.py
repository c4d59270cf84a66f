"""Classify detection errors and compute the AP50 that each kind of error costs.

After TIDE (Bolya et al., ECCV 2020). A detection that is wrong at IoU 0.5 has one kind, the first that
applies:

* localisation: overlaps a box of its own concept with IoU 0.1 to 0.5;
* classification: overlaps a box of another concept with IoU of at least 0.5;
* duplicate: overlaps a box of its own concept that a detection with a higher score has found;
* background: IoU with every box is below 0.1;
* both: the remaining ones; another concept, with IoU below 0.5.

A box is missed if no detection found it and no localisation or classification error concerns it.

The cost of a kind is the AP50 gained if all errors of that kind, and no others, were corrected. Wrong boxes
and wrong concepts are corrected for the best-scored detection of each box that is not found yet. Other wrong
detections are removed. Missed boxes no longer count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.detector.evaluation.coco_engines import RECALLS
from cckt.detector.evaluation.ground_truth import GroundTruth, Rows
from cckt.detector.evaluation.match_detections import MATCH_IOU, DetectionMatches, group_by_image, iou

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
NEAR_IOU = 0.1
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Errors of the detections of `DetectionMatches`.

    kind: (K,) int64, index into KINDS; -1 if the detection is not wrong. target: (K,) int64, the box that a
    localisation or classification error concerns; -1 for other kinds. missed: (M,) bool, the missed boxes.
    """

    kind: Rows
    target: Rows
    missed: npt.NDArray[np.bool_]


def classify(truth: GroundTruth, matches: DetectionMatches) -> Errors:
    """Classify every error at the first IoU threshold of the matches, which must be 0.5."""
    assert matches.thresholds[0] == MATCH_IOU, f"expected {MATCH_IOU} first, found {matches.thresholds}"
    kind = np.full(len(matches.scores), -1, np.int64)
    target = np.full(len(matches.scores), -1, np.int64)
    boxes_without_crowds = np.flatnonzero(~truth.crowd)
    wrong_rows = np.flatnonzero(matches.wrong[0])
    for wrong, boxes in group_by_image(truth, wrong_rows, matches.images, boxes_without_crowds):
        overlap = iou(matches.boxes_xywh[wrong], truth.boxes_xywh[boxes], np.zeros(len(boxes), bool))
        same = matches.concepts[wrong][:, None] == truth.concepts[boxes][None]
        own, own_column = _row_maximum(np.where(same, overlap, -1))
        other, other_column = _row_maximum(np.where(same, -1, overlap))
        kind[wrong] = np.select(
            [
                (own >= NEAR_IOU) & (own < MATCH_IOU),
                other >= MATCH_IOU,
                own >= MATCH_IOU,
                np.maximum(own, other) < NEAR_IOU,
            ],
            [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
            BOTH,
        )
        column = np.where(kind[wrong] == LOCALISATION, own_column, other_column)
        has_target = np.isin(kind[wrong], (LOCALISATION, CLASSIFICATION))
        target[wrong[has_target]] = boxes[column[has_target]]
    detected = np.zeros(len(truth.images), bool)
    detected[matches.box[0][matches.box[0] >= 0]] = True
    detected[target[target >= 0]] = True
    return Errors(kind, target, ~detected & ~truth.crowd)


def _row_maximum(overlap: Floats) -> tuple[Floats, Rows]:
    """Return (K,) maximum and its column of each row of (K, M); -1 and 0 if M is 0."""
    if not overlap.shape[1]:
        return np.full(len(overlap), -1.0), np.zeros(len(overlap), np.int64)
    column = overlap.argmax(1)
    return np.take_along_axis(overlap, column[:, None], 1)[:, 0], column.astype(np.int64)


def costs(
    truth: GroundTruth, matches: DetectionMatches, errors: Errors
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return split -> kind -> {"count", "lost"}.

    count: number of errors of the concepts of the split. lost: mean AP50 that the concepts of the split gain
    if all errors of the kind are corrected; None if no concept of the split has a box.
    """
    positives = np.bincount(truth.concepts[~truth.crowd], minlength=len(truth.names))
    counted = ~matches.ignored[0]
    right = matches.right[0]
    current = _ap50(matches.concepts[counted], matches.scores[counted], right[counted], positives)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for number, name in enumerate(KINDS):
        corrected = _corrected_ap50(truth, matches, errors, number, positives, counted)
        for split in ("base", "novel"):
            concepts = truth.in_split(split) & (positives > 0)
            if name == "missed":
                count = int(truth.in_split(split)[truth.concepts[errors.missed]].sum())
            else:
                count = int(truth.in_split(split)[matches.concepts[errors.kind == number]].sum())
            gained = corrected[concepts] - current[concepts]
            lost = float(gained.mean()) if concepts.any() else None
            result.setdefault(split, {})[name] = {"count": count, "lost": lost}
    return result


def _corrected_ap50(
    truth: GroundTruth,
    matches: DetectionMatches,
    errors: Errors,
    number: int,
    positives: Rows,
    counted: npt.NDArray[np.bool_],
) -> Floats:
    """Return (C,) AP50 with all errors of kind `number` corrected. positives: (C,) boxes of each concept."""
    concepts, scores, right = matches.concepts.copy(), matches.scores, matches.right[0].copy()
    if KINDS[number] == "missed":
        missed = np.bincount(truth.concepts[errors.missed], minlength=len(truth.names))
        return _ap50(concepts[counted], scores[counted], right[counted], positives - missed)
    wrong = np.flatnonzero(errors.kind == number)
    keep = counted.copy()
    keep[wrong] = False
    if number in (CLASSIFICATION, LOCALISATION):
        taken = np.zeros(len(truth.images), bool)
        taken[matches.box[0][right]] = True
        for row in wrong[np.argsort(-scores[wrong], kind="stable")]:
            box = errors.target[row]
            if not taken[box]:
                taken[box] = keep[row] = right[row] = True
                concepts[row] = truth.concepts[box]
    return _ap50(concepts[keep], scores[keep], right[keep], positives)


def _ap50(concepts: Rows, scores: Floats, right: npt.NDArray[np.bool_], positives: Rows) -> Floats:
    """Return (C,) 101-point AP of each concept; 1 for a concept without boxes, which then loses nothing."""
    ap = np.ones(len(positives))
    order = np.lexsort((-scores, concepts))
    concepts, right = concepts[order], right[order]
    bounds = np.searchsorted(concepts, np.arange(len(positives) + 1))
    for concept, boxes in enumerate(positives):
        if boxes <= 0:
            continue
        hits = np.cumsum(right[bounds[concept] : bounds[concept + 1]])
        precision = hits / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        column = np.searchsorted(hits / boxes, RECALLS)
        ap[concept] = np.append(precision, 0.0)[np.minimum(column, len(precision))].mean()
    return ap
