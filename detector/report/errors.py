"""What keeps AP50 from 100: the kinds of errors, and what each of them costs.

After TIDE (Bolya et al., ECCV 2020): a detection that counts as wrong at IoU 0.5 has one kind, the first that
holds of

* localisation: its own concept lies there, IoU 0.1 to 0.5;
* classification: another concept lies there, IoU at least 0.5;
* duplicate: its own concept lies there, but a surer detection has found it;
* background: IoU with anything is below 0.1;
* both: what is left, another concept not quite there;

and a box that no detection found, nor one of the first two kinds would have, is missed. What a kind costs is
the AP50 gained when all errors of that kind are put right and nothing else is: wrong places and names are
corrected for the surest detection of each free box, all other wrong detections go, missed boxes are not asked
for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.detector.evaluation.coco_engines import RECALLS
from cckt.detector.evaluation.ground_truth import GroundTruth, Rows
from cckt.detector.evaluation.match_detections import DetectionMatches, iou

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
FOUND, NEAR = 0.5, 0.1
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """kind: (K,) int64, number in KINDS of each detection of the DetectionMatches, -1 where it is not wrong.

    target: (K,) int64, the truth box that a wrong name or place was about, -1 for the other kinds. missed:
    (M,) bool, boxes that nothing came near.
    """

    kind: Rows
    target: Rows
    missed: npt.NDArray[np.bool_]


def classify(truth: GroundTruth, matches: DetectionMatches) -> Errors:
    """The kind of every error at the first threshold of the matches, which must be 0.5."""
    assert matches.thresholds[0] == FOUND, matches.thresholds
    kind = np.full(len(matches.scores), -1, np.int64)
    target = np.full(len(matches.scores), -1, np.int64)
    real = np.flatnonzero(~truth.crowd)
    for wrong, boxes in by_photo(truth, np.flatnonzero(matches.wrong[0]), matches.images, real):
        overlap = iou(matches.boxes_xywh[wrong], truth.boxes_xywh[boxes], np.zeros(len(boxes), bool))
        same = matches.concepts[wrong][:, None] == truth.concepts[boxes][None]
        own, own_at = _best(np.where(same, overlap, -1))
        other, other_at = _best(np.where(same, -1, overlap))
        kind[wrong] = np.select(
            [(own >= NEAR) & (own < FOUND), other >= FOUND, own >= FOUND, np.maximum(own, other) < NEAR],
            [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
            BOTH,
        )
        at = np.where(kind[wrong] == LOCALISATION, own_at, other_at)
        about = np.isin(kind[wrong], (LOCALISATION, CLASSIFICATION))
        target[wrong[about]] = boxes[at[about]]
    reached = np.zeros(len(truth.images), bool)
    reached[matches.box[0][matches.box[0] >= 0]] = True
    reached[target[target >= 0]] = True
    return Errors(kind, target, ~reached & ~truth.crowd)


def by_photo(truth: GroundTruth, rows: Rows, images: Rows, boxes: Rows) -> Iterator[tuple[Rows, Rows]]:
    """For each photo with some of `rows` (of a table whose photos are `images`): these, and its boxes."""
    rows = rows[np.argsort(images[rows], kind="stable")]
    photos, starts = np.unique(images[rows], return_index=True)
    ends = [*starts.tolist(), len(rows)][1:]
    truth_images = truth.images[boxes]
    for photo, low, high in zip(photos, starts.tolist(), ends, strict=True):
        first, last = np.searchsorted(truth_images, photo), np.searchsorted(truth_images, photo, "right")
        yield rows[low:high], boxes[first:last]


def _best(overlap: Floats) -> tuple[Floats, Rows]:
    """(K,) largest of each row, and where; -1 and 0 without columns."""
    if not overlap.shape[1]:
        return np.full(len(overlap), -1.0), np.zeros(len(overlap), np.int64)
    at = overlap.argmax(1)
    return np.take_along_axis(overlap, at[:, None], 1)[:, 0], at.astype(np.int64)


def costs(
    truth: GroundTruth, matches: DetectionMatches, errors: Errors
) -> dict[str, dict[str, dict[str, Any]]]:
    """split -> kind -> {"count", "lost"}: how many errors of the split's own concepts, and the AP50 that
    putting them right gains on the split's concepts (None where no concept of it has a box)."""
    positives = np.bincount(truth.concepts[~truth.crowd], minlength=len(truth.names))
    counted = ~matches.ignored[0]
    right = matches.right[0]
    now = _ap50(matches.concepts[counted], matches.scores[counted], right[counted], positives)
    answer: dict[str, dict[str, dict[str, Any]]] = {}
    for number, name in enumerate(KINDS):
        mended = _mended(truth, matches, errors, number, positives, counted & True)
        for split in ("base", "novel"):
            concepts = truth.in_split(split) & (positives > 0)
            if name == "missed":
                count = int(truth.in_split(split)[truth.concepts[errors.missed]].sum())
            else:
                count = int(truth.in_split(split)[matches.concepts[errors.kind == number]].sum())
            gained = mended[concepts] - now[concepts]
            lost = float(gained.mean()) if concepts.any() else None
            answer.setdefault(split, {})[name] = {"count": count, "lost": lost}
    return answer


def _mended(
    truth: GroundTruth,
    matches: DetectionMatches,
    errors: Errors,
    number: int,
    positives: Rows,
    counted: npt.NDArray[np.bool_],
) -> Floats:
    """(C,) AP50 as if there were no error of a kind."""
    concepts, scores, right = matches.concepts.copy(), matches.scores, matches.right[0].copy()
    if KINDS[number] == "missed":
        missed = np.bincount(truth.concepts[errors.missed], minlength=len(truth.names))
        return _ap50(concepts[counted], scores[counted], right[counted], positives - missed)
    these = np.flatnonzero(errors.kind == number)
    keep = counted.copy()
    keep[these] = False
    if number in (CLASSIFICATION, LOCALISATION):
        taken = np.zeros(len(truth.images), bool)
        taken[matches.box[0][right]] = True
        for row in these[np.argsort(-scores[these], kind="stable")]:
            box = errors.target[row]
            if not taken[box]:
                taken[box] = keep[row] = right[row] = True
                concepts[row] = truth.concepts[box]
    return _ap50(concepts[keep], scores[keep], right[keep], positives)


def _ap50(concepts: Rows, scores: Floats, right: npt.NDArray[np.bool_], positives: Rows) -> Floats:
    """(C,) 101-point AP of each concept, 0 where nothing is to be found any more (then nothing is lost)."""
    answer = np.ones(len(positives))
    order = np.lexsort((-scores, concepts))
    concepts, right = concepts[order], right[order]
    bounds = np.searchsorted(concepts, np.arange(len(positives) + 1))
    for concept, boxes in enumerate(positives):
        if boxes <= 0:
            continue
        hits = np.cumsum(right[bounds[concept] : bounds[concept + 1]])
        precision = hits / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(hits / boxes, RECALLS)
        answer[concept] = np.append(precision, 0.0)[np.minimum(at, len(precision))].mean()
    return answer
