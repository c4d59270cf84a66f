"""Ground truth of an evaluation: the annotated boxes of the concepts that a protocol scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.boxes import xywh_of
from cckt.cache_builder.index import Index, require_annotated
from cckt.detector.evaluation.protocols import SPLIT_FIGURES, Protocol, protocol_for

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroundTruth:
    """I images, C scored concepts and M annotated boxes, as columns.

    Images and concepts are numbered from 0 in the order of their ids.

    image_ids: (I,) int64 ascending; widths, heights: (I,) int32 px.
    concept_rows: (C,) rows of the scored concepts in the index's vocabulary; category_ids: (C,) their ids,
    ascending.
    names, splits, frequencies: C strings each; a split is "base", "novel" or, if scored, "other"; a frequency
    is "", "r", "c" or "f".
    images, concepts: (M,) int64, number of the image and of the concept of each box, sorted by image.
    boxes_xywh: (M, 4) float64 px; areas: (M,) float64 px^2, as annotated (often the area of a mask, which is
    smaller); crowd: (M,) bool.
    negative, not_exhaustive: (I, C) bool if federated (LVIS), else None: concepts verified to be absent from
    an image, and concepts whose boxes in an image are incomplete.
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
    """Name of the protocol; "" if the ground truth was built without one."""
    headline: tuple[str, ...] = SPLIT_FIGURES
    """Names of the figures that get confidence intervals."""

    @property
    def federated(self) -> bool:
        """Whether an image is scored only on the concepts that were verified in it (LVIS)."""
        return self.negative is not None

    def in_split(self, *splits: str) -> npt.NDArray[np.bool_]:
        """(C,) bool: the concept is in one of the splits."""
        return np.array([split in splits for split in self.splits], bool)


def ground_truth_of(index: Index, protocol: Protocol | str = "auto") -> GroundTruth:
    """Return the ground truth of an index under a protocol (docs/method/cckt_det.md, section 1).

    Raises UserError if the protocol is unknown, does not fit the index or scores no concept, and if the index
    holds boxes that are not annotations.
    """
    require_annotated(index)
    protocol = protocol_for(protocol, index) if isinstance(protocol, str) else protocol
    vocabulary, rows = protocol.scored(index)
    concepts = [vocabulary[int(row)] for row in rows]
    number = index.concepts.places(rows)  # of each concept row; -1 if it is not scored
    numbers = number[np.asarray(index.box_concepts)]
    keep = numbers >= 0
    xyxy = np.asarray(index.box_xyxy, np.float64)[keep]
    negative = not_exhaustive = None
    if protocol.federated:
        negative = _marks(len(index.image_ids), number, index.neg_offsets, index.neg_rows)
        not_exhaustive = _marks(
            len(index.image_ids), number, index.not_exhaustive_offsets, index.not_exhaustive_rows
        )
    return GroundTruth(
        image_ids=np.asarray(index.image_ids, np.int64),
        widths=np.asarray(index.widths),
        heights=np.asarray(index.heights),
        concept_rows=rows,
        category_ids=np.array([concept.category_id for concept in concepts], np.int64),
        names=tuple(concept.name for concept in concepts),
        splits=tuple(concept.split for concept in concepts),
        frequencies=tuple(concept.frequency for concept in concepts),
        images=np.asarray(index.box_images, np.int64)[keep],
        concepts=numbers[keep],
        boxes_xywh=xywh_of(xyxy),
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
    """Return (I, C) bool, True for the concept `rows` of image k in rows[offsets[k] : offsets[k + 1]]."""
    marks = np.zeros((images, int(number.max()) + 1), bool)
    if len(rows):
        image = np.repeat(np.arange(images), np.diff(offsets))
        concept = number[np.asarray(rows)]
        marks[image[concept >= 0], concept[concept >= 0]] = True
    return marks
