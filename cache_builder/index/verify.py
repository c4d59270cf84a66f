"""Checks that read whole tables: no box of a novel concept, and contents as they were built."""

from __future__ import annotations

import numpy as np

from cckt.cache_builder.index.reader import Index
from cckt.cache_builder.index.tables import boxes_by_concept, tables_digest, tables_folder


def novel_boxes(index: Index) -> int:
    """Return the number of boxes whose concept is not base, counted in the tables themselves.

    0 proves that nothing made from a `keep="base"` index can see a box of a novel concept. In a `keep="all"`
    index such boxes are expected.
    """
    barred = ~index.concepts.in_split("base")
    in_boxes = np.count_nonzero(barred[np.asarray(index.box_concepts)])
    by_concept = np.diff(index.concept_box_offsets)[barred].sum()
    return int(max(in_boxes, by_concept))


def verify_index(index: Index) -> bool:
    """Return whether the tables, file names and concepts are those that were built. Reads all of them."""
    derived = boxes_by_concept(index.box_concepts, len(index.concepts))
    return (
        tables_digest(index, index.concepts, index.exif) == index.digest
        and index.card["tables"] == tables_folder(index, index.digest)
        and all(np.array_equal(getattr(index, name), values) for name, values in derived.items())
    )
