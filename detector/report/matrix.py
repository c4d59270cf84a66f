"""The confusion matrix over all concepts: what each annotated object is detected as."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import MATCH_IOU, best_detections, group_by_image, iou


def confusion_matrix(truth: GroundTruth, found: LocatedDetections, threshold: float) -> dict[str, Any]:
    """Return the page data of the matrix, of detections with a score of at least `threshold`.

    concepts: name, split and boxes of each concept with a box or a detection; base first, then by name.
    cells: [row, column, count] of the counts above 0; a row is the concept of an annotated box, a column that
    of the best detection that overlaps it (IoU 0.5). The last column, len(concepts), counts boxes without a
    detection; the last row counts detections that overlap no box. Crowds are left out.
    """
    found = found.where(found.scores >= threshold)
    best = best_detections(truth, found)
    counted = ~truth.crowd
    concepts = len(truth.names)
    of_boxes = np.full(len(best), concepts, np.int64)
    of_boxes[best >= 0] = found.concepts[best[best >= 0]]
    counts: dict[tuple[int, int], int] = {}
    for row, column in zip(truth.concepts[counted].tolist(), of_boxes[counted].tolist(), strict=True):
        counts[row, column] = counts.get((row, column), 0) + 1
    for column in found.concepts[_alone(truth, found)].tolist():
        counts[concepts, column] = counts.get((concepts, column), 0) + 1
    used = {one for pair in counts for one in pair} - {concepts}
    novel = truth.in_split("novel")
    order = sorted(used, key=lambda one: (bool(novel[one]), truth.names[one]))
    place = {concept: at for at, concept in enumerate(order)} | {concepts: len(order)}
    boxes = np.bincount(truth.concepts[counted], minlength=concepts)
    splits = {int(row): name for name in ("base", "novel") for row in np.flatnonzero(truth.in_split(name))}
    return {
        "concepts": [
            {"name": truth.names[one], "split": splits.get(one, "other"), "boxes": int(boxes[one])}
            for one in order
        ],
        "cells": sorted([place[row], place[column], count] for (row, column), count in counts.items()),
    }


def _alone(truth: GroundTruth, found: LocatedDetections) -> npt.NDArray[np.bool_]:
    """Return (K,) bool: the detection overlaps no annotated box, crowds included."""
    alone = np.ones(len(found.scores), bool)
    all_rows, all_boxes = np.arange(len(found.scores)), np.arange(len(truth.images))
    for rows, boxes in group_by_image(truth, all_rows, found.images, all_boxes):
        if len(boxes):
            overlap = iou(found.boxes_xywh[rows], truth.boxes_xywh[boxes], truth.crowd[boxes])
            alone[rows] = (overlap < MATCH_IOU).all(1)
    return alone
