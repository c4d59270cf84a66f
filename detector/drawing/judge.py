"""Marks of detections next to the annotations of an image: right, wrong, missed."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import box_iou

from cckt.cache_builder.index import Index
from cckt.detector.drawing.draw import Mark
from cckt.detector.drawing.legend import Verdict
from cckt.detector.inference.prediction import Prediction

MATCH_IOU = 0.5
"""Smallest IoU of a detection and an annotated box of its concept for it to be right."""


def judged_marks(index: Index, row: int, prediction: Prediction) -> list[Mark]:
    """Return the marks of an image of a data set: its detections, then the annotated objects they miss.

    prediction: of image `row`, with the concepts of the index as vocabulary. In order of their scores, each
    detection takes the free box of its concept with the highest IoU, of at least MATCH_IOU, and is right;
    without one it is wrong. A detection on a crowd of its concept, and in LVIS one of a concept that the
    image is not verified for, is neither. Crowds are never missed.
    """
    boxes = np.arange(*_span(index, row))
    concepts, crowd = index.box_concepts[boxes], index.iscrowd[boxes]
    overlap = box_iou(
        torch.from_numpy(prediction.boxes_xyxy.astype(np.float64)).reshape(-1, 4),
        torch.from_numpy(np.asarray(index.box_xyxy[boxes], np.float64)).reshape(-1, 4),
    ).numpy()
    free = ~crowd
    verdicts: list[Verdict] = [""] * len(prediction)
    for at in np.argsort(-prediction.scores, kind="stable").tolist():
        fits = (concepts == prediction.concepts[at]) & (overlap[at] >= MATCH_IOU)
        if (fits & free).any():
            free[int(np.argmax(np.where(fits & free, overlap[at], -1.0)))] = False
            verdicts[at] = "right"
        elif not (fits & crowd).any() and _is_settled(index, row, int(prediction.concepts[at])):
            verdicts[at] = "wrong"
    novel = index.concepts.in_split("novel")
    marks = [
        Mark(tuple(box), name, float(score), bool(new), verdict)
        for box, name, score, new, verdict in zip(
            prediction.boxes_xyxy.tolist(),
            prediction.names,
            prediction.scores,
            prediction.novel,
            verdicts,
            strict=True,
        )
    ]
    for box in boxes[free].tolist():
        concept = int(index.box_concepts[box])
        left, top, right, bottom = (float(edge) for edge in index.box_xyxy[box])
        corners = (left, top, right, bottom)
        marks.append(Mark(corners, index.concepts[concept].name, None, bool(novel[concept]), "missed"))
    return marks


def _span(index: Index, row: int) -> tuple[int, int]:
    """Return the first box of an image, and the one after its last."""
    boxes = index.boxes_of(row)
    return boxes.start, boxes.stop


def _is_settled(index: Index, row: int, concept: int) -> bool:
    """Whether the annotations settle which objects of a concept an image shows (see `known_pairs`)."""
    if not len(index.neg_rows):
        return True
    low, high = index.neg_offsets[row], index.neg_offsets[row + 1]
    return bool(
        (index.neg_rows[low:high] == concept).any()
        or (index.box_concepts[index.boxes_of(row)] == concept).any()
    )
