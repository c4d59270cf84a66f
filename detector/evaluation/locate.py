"""Detections located in a ground truth: ids replaced by image and concept numbers, unusable ones refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.ground_truth import GroundTruth, Rows

OUTSIDE = 0.1
"""A box leaves its photo if an edge is outside by more than this share of the photo's side."""
MOST_OUTSIDE, MOST_OUTSIDE_AS_CORNERS = 0.5, 0.1
"""Largest accepted share of boxes that leave their photo; the second if the boxes also fit as corners."""
FITTING_AS_CORNERS = 0.95
"""Smallest share of boxes that are valid corners inside their photo for a file to count as corners."""


@dataclass(frozen=True)
class LocatedDetections:
    """K detections of scored concepts, with image and concept numbers of a GroundTruth.

    images, concepts: (K,) int64; scores: (K,) float64; boxes_xywh: (K, 4) float64 px. The order is that of
    the `Detections`.
    """

    images: Rows
    concepts: Rows
    scores: npt.NDArray[np.float64]
    boxes_xywh: npt.NDArray[np.float64]

    def where(self, keep: npt.NDArray[Any]) -> LocatedDetections:
        """Return the detections selected by a mask or an array of positions."""
        return LocatedDetections(
            self.images[keep], self.concepts[keep], self.scores[keep], self.boxes_xywh[keep]
        )


def locate_detections(detections: Detections, index: Index, truth: GroundTruth) -> LocatedDetections:
    """Find the image and the concept of each detection; drop concepts that the protocol does not score.

    Raises UserError for an image id or a category id that is not in the index, and if so many boxes leave
    their photo that they cannot be [left, top, width, height] in its pixels.
    """
    images = _numbers(detections.image_ids, truth.image_ids)
    bad = np.flatnonzero(images < 0)
    if bad.size:
        raise UserError(
            f"{detections.source}: image id {detections.image_ids[bad[0]]} is not in {index.folder} "
            f"({bad.size} of {len(detections)} detections have unknown image ids), expected its image ids; "
            "give the index these detections were made for."
        )
    known = np.sort(np.asarray(index.concepts.category_ids, np.int64))
    bad = np.flatnonzero(_numbers(detections.category_ids, known) < 0)
    if bad.size:
        raise UserError(
            f"{detections.source}: category id {detections.category_ids[bad[0]]} is not in {index.folder} "
            f"({bad.size} of {len(detections)} detections have unknown category ids), expected its category "
            "ids; give the index these detections were made for."
        )
    _check_inside(detections, images, truth)
    concepts = _numbers(detections.category_ids, truth.category_ids)
    found = LocatedDetections(images, concepts, detections.scores, detections.boxes_xywh)
    return found.where(concepts >= 0)


def _check_inside(detections: Detections, images: Rows, truth: GroundTruth) -> None:
    """Raise UserError if the boxes are corners, or in pixels of another image size.

    A few boxes may leave their photo: a detector need not clip them. Corner boxes read as width and height
    leave it in about three of four cases, and nearly all of them are valid corners inside it.
    """
    if not len(detections):
        return
    boxes = detections.boxes_xywh
    sizes = np.stack([truth.widths[images], truth.heights[images]], 1).astype(np.float64)
    margin = OUTSIDE * sizes
    outside = (boxes[:, :2] < -margin) | (boxes[:, :2] + boxes[:, 2:] > sizes + margin)
    left = np.flatnonzero(outside.any(1))
    fits = (boxes[:, 2:] >= boxes[:, :2]) & (boxes[:, 2:] <= sizes + 1)
    corners = bool(fits.all(1).mean() >= FITTING_AS_CORNERS)
    if left.size <= (MOST_OUTSIDE_AS_CORNERS if corners else MOST_OUTSIDE) * len(detections):
        return
    first = left[0]
    width, height = sizes[first].astype(int).tolist()
    step = (
        "they look like corners [left, top, right, bottom]: convert them"
        if corners
        else "convert them to pixels of the original photos"
    )
    raise UserError(
        f"{detections.source}: {left.size} of {len(detections)} boxes leave their photo, such as "
        f"{boxes[first].tolist()} of image {detections.image_ids[first]} ({width} x {height} px), expected "
        f"[left, top, width, height]; {step}."
    )


def _numbers(ids: Rows, table: Rows) -> Rows:
    """Return the position of each id in an ascending table, -1 if it is not there."""
    if not len(table):
        return np.full(len(ids), -1, np.int64)
    at = np.minimum(np.searchsorted(table, ids), len(table) - 1)
    return np.where(table[at] == ids, at, -1).astype(np.int64)


def keep_verified(found: LocatedDetections, truth: GroundTruth) -> LocatedDetections:
    """Keep detections of concepts that are annotated in the image or verified to be absent (LVIS)."""
    assert truth.negative is not None, "expected a federated ground truth"
    verified = truth.negative.copy()
    verified[truth.images, truth.concepts] = True
    return found.where(verified[found.images, found.concepts])


def keep_best_per_image(found: LocatedDetections, most: int) -> LocatedDetections:
    """Keep the `most` highest scores of each image over all concepts (LVIS: 300).

    Of equal scores the earlier detections are kept.
    """
    order = np.lexsort((-found.scores, found.images))
    images = found.images[order]
    first = np.searchsorted(images, images, side="left")
    keep = order[np.arange(len(order)) - first < most]
    return found.where(np.sort(keep))
