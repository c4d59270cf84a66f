"""What is really there: the index's tables, cut to the concepts that are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index, require_annotated
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.protocols import SPLIT_FIGURES, Protocol, protocol_for

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """Ground truth as columns. Photos and concepts are numbered 0.. in the order of their ids.

    image_ids: (I,) int64 ascending; widths, heights: (I,) int32 px.
    concept_rows: (C,) rows of the index's vocabulary that are scored; category_ids: (C,) their ids,
    ascending.
    names, splits, frequencies: C words each; split is "base", "novel" or, if scored, "other"; frequency "",
    "r", "c" or "f".
    images, concepts: (M,) int64, numbers of photo and concept of each box, sorted by photo.
    boxes_xywh: (M, 4) float64 px; areas: (M,) float64 px^2, as annotated (a mask's area where there is one);
    crowd: (M,) bool.
    negative, not_exhaustive: (I, C) bool, or None unless federated (LVIS): the concepts known to be absent
    from a photo, and those whose boxes in it are incomplete.
    """

    image_ids: Rows
    widths: npt.NDArray[Any]
    heights: npt.NDArray[Any]
    concept_rows: Rows
    category_ids: Rows
    names: tuple[str, ...]
    splits: tuple[str, ...]
    frequencies: tuple[str, ...]
    images: Rows
    concepts: Rows
    boxes_xywh: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    crowd: npt.NDArray[np.bool_]
    negative: npt.NDArray[np.bool_] | None
    not_exhaustive: npt.NDArray[np.bool_] | None
    protocol: str = ""
    """Its name; "" where it was made without one."""
    headline: tuple[str, ...] = SPLIT_FIGURES
    """The figures that get intervals."""

    @property
    def federated(self) -> bool:
        """Whether photos are judged only on the concepts they were checked for (LVIS)."""
        return self.negative is not None

    def in_split(self, *splits: str) -> npt.NDArray[np.bool_]:
        """(C,) bool: the concepts of these splits."""
        return np.array([split in splits for split in self.splits], bool)


def truth_of(index: Index, protocol: Protocol | str = "auto") -> Truth:
    """The ground truth of an index under a protocol; concepts that it leaves out are not scored at all.

    Raises UserError where the protocol is unknown or does not fit, or leaves no concept, and where not all
    boxes are annotated. Source: METHOD.md section 1.
    """
    require_annotated(index)
    protocol = protocol_for(protocol, index) if isinstance(protocol, str) else protocol
    vocabulary = protocol.concepts(index)
    rows = np.array(protocol.rows(vocabulary), np.int64)
    if not len(rows):
        raise UserError(
            f"{index.folder} has neither base nor novel concepts, so there is nothing to score; build the "
            "index with a --split that names them, or take --protocol coco."
        )
    concepts = [vocabulary[int(row)] for row in rows]
    number = index.concepts.places(rows)
    numbers = number[np.asarray(index.box_concepts)]
    keep = numbers >= 0
    xyxy = np.asarray(index.box_xyxy, np.float64)[keep]
    negative = not_exhaustive = None
    if protocol.federated:
        negative = _marks(len(index.image_ids), number, index.neg_offsets, index.neg_rows)
        not_exhaustive = _marks(
            len(index.image_ids), number, index.not_exhaustive_offsets, index.not_exhaustive_rows
        )
    return Truth(
        image_ids=np.asarray(index.image_ids, np.int64),
        widths=np.asarray(index.widths),
        heights=np.asarray(index.heights),
        concept_rows=rows.astype(np.int64),
        category_ids=np.array([concept.category_id for concept in concepts], np.int64),
        names=tuple(concept.name for concept in concepts),
        splits=tuple(concept.split for concept in concepts),
        frequencies=tuple(concept.frequency for concept in concepts),
        images=np.asarray(index.box_images, np.int64)[keep],
        concepts=numbers[keep],
        boxes_xywh=np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1),
        areas=np.asarray(index.areas, np.float64)[keep],
        crowd=np.asarray(index.iscrowd, bool)[keep],
        negative=negative,
        not_exhaustive=not_exhaustive,
        protocol=protocol.name,
        headline=protocol.headline,
    )


def _marks(
    images: int, number: Rows, offsets: npt.NDArray[Any], rows: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    marks = np.zeros((images, int(number.max()) + 1), bool)
    if len(rows):
        image = np.repeat(np.arange(images), np.diff(offsets))
        concept = number[np.asarray(rows)]
        marks[image[concept >= 0], concept[concept >= 0]] = True
    return marks


@dataclass(frozen=True)
class Found:
    """Detections on a Truth: photos and concepts by number, `other` concepts gone, order kept.

    images, concepts: (K,) int64; scores: (K,) float64; boxes_xywh: (K, 4) float64 px.
    """

    images: Rows
    concepts: Rows
    scores: npt.NDArray[np.float64]
    boxes_xywh: npt.NDArray[np.float64]

    def where(self, keep: npt.NDArray[Any]) -> Found:
        """Those that a mask or an array of positions picks."""
        return Found(self.images[keep], self.concepts[keep], self.scores[keep], self.boxes_xywh[keep])


def locate(detections: Detections, index: Index, truth: Truth) -> Found:
    """Find each detection's photo and concept; refuse ids that the index does not have."""
    images = _numbers(detections.image_ids, truth.image_ids)
    bad = np.flatnonzero(images < 0)
    if bad.size:
        raise UserError(
            f"{detections.source}: image id {detections.image_ids[bad[0]]} is not in {index.folder} "
            f"({bad.size} of {len(detections)} detections are on unknown photos); give the index these "
            "detections were made for."
        )
    known = np.sort(np.asarray(index.concepts.category_ids, np.int64))
    bad = np.flatnonzero(_numbers(detections.category_ids, known) < 0)
    if bad.size:
        raise UserError(
            f"{detections.source}: category id {detections.category_ids[bad[0]]} is not in {index.folder} "
            f"({bad.size} of {len(detections)} detections name unknown categories); give the index these "
            "detections were made for."
        )
    concepts = _numbers(detections.category_ids, truth.category_ids)
    found = Found(images, concepts, detections.scores, detections.boxes_xywh)
    return found.where(concepts >= 0)


def _numbers(ids: Rows, table: Rows) -> Rows:
    """Position of each id in an ascending table, -1 where it is not."""
    if not len(table):
        return np.full(len(ids), -1, np.int64)
    at = np.minimum(np.searchsorted(table, ids), len(table) - 1)
    return np.where(table[at] == ids, at, -1).astype(np.int64)


def cap_per_photo(found: Found, most: int) -> Found:
    """Each photo's `most` highest scores over all concepts; equal scores in their given order (LVIS: 300)."""
    order = np.lexsort((-found.scores, found.images))
    images = found.images[order]
    first = np.searchsorted(images, images, side="left")
    keep = order[np.arange(len(order)) - first < most]
    return found.where(np.sort(keep))
