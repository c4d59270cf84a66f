"""Rows of an older column that a new one may copy: same photo, same box, same recipe.

A photo is the same if its file has the same digest, size and reading of its EXIF orientation, whatever its
name or image id. A box is the same if its corners are, it is no crowd, and for jittered views that from which
the jitter is drawn: its annotation id, or of a proposal the image id and the rank. Values are read from
chunks that have the digests of their manifest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.columns.views import BoxTable, box_keys, index_of
from cckt.cache_builder.index import Index
from cckt.cache_builder.runner import Item
from cckt.cache_builder.store import Column, ProvenRows, parse_name

Reduction = Callable[[BoxTable, int], int]
"""(table, image row) -> the scale at which a photo is decoded; see `CropReader.reduction`."""


class Donor:
    """The older column, and which of its rows a new column may copy. Picklable."""

    def __init__(self, table: BoxTable, old: BoxTable, column: Column, images: NDArray[np.int64]) -> None:
        """table, old: of the new column and of the older one, the index for columns of images. images: (I,)
        image row of `old` with the same photo, -1 for none; see `same_photos`."""
        self.table, self.old, self.images = table, old, images
        self.rows = ProvenRows(column)
        name = parse_name(column.manifest.spec.name)
        self._jittered = name is not None and bool(name.jitter)
        self._of_boxes = column.manifest.spec.table in ("boxes", "proposals")
        self.reduction: Reduction | None = None
        """Set for approximate preprocessing: there the pixels of a box depend on the photo's other boxes."""

    def old_rows(self, lo: int, hi: int) -> NDArray[np.int64]:
        """Return the old rows (hi - lo,) that rows [lo, hi) may copy; -1 for a row that must be made."""
        found = self._same_boxes(lo, hi) if self._of_boxes else self.images[lo:hi].copy()
        found[~self.rows.usable(found)] = -1
        return found

    def split(self, lo: int, hi: int) -> tuple[list[Item], list[tuple[int, int]], set[int]]:
        """Return the items of the copied rows of [lo, hi), and the other rows, as ranges and as a set.

        There is one range for each photo, so that it is decoded once; it may hold copied rows as well.
        """
        old = self.old_rows(lo, hi)
        copied = np.flatnonzero(old >= 0)
        values = self.rows.take(old[copied])
        items = [Item(row, value=value) for row, value in zip((lo + copied).tolist(), values, strict=True)]
        others = lo + np.flatnonzero(old < 0)
        return items, self._ranges(others), set(others.tolist())

    def long_spans(self, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Join ascending ranges of rows of which every row is copied, so that few jobs copy many rows."""
        joined: list[tuple[int, int]] = []
        before = False
        for lo, hi in spans:
            whole = bool((self.old_rows(lo, hi) >= 0).all())
            if whole and before and joined[-1][1] == lo:
                joined[-1] = (joined[-1][0], hi)
            else:
                joined.append((lo, hi))
            before = whole
        return joined

    def _ranges(self, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
        """For each photo of ascending rows, the range from its first row to its last."""
        if not len(rows):
            return []
        images = self.table.box_images[rows] if self._of_boxes else rows
        cuts = [0, *(np.flatnonzero(np.diff(images)) + 1).tolist(), len(rows)]
        return [(int(rows[a]), int(rows[b - 1]) + 1) for a, b in itertools.pairwise(cuts)]

    def _same_boxes(self, lo: int, hi: int) -> NDArray[np.int64]:
        found = np.full(hi - lo, -1, np.int64)
        images = self.table.box_images[lo:hi]
        cuts = [0, *(np.flatnonzero(np.diff(images)) + 1).tolist(), len(images)]
        for a, b in itertools.pairwise(cuts) if len(images) else ():
            image = int(images[a])
            source = int(self.images[image])
            if source < 0:
                continue
            if self.reduction and self.reduction(self.table, image) != self.reduction(self.old, source):
                continue
            found[a:b] = self._same_boxes_of(lo + a, lo + b, self.old.boxes_of(source))
        found[self.table.iscrowd[lo:hi]] = -1  # a crowd has no value, whatever it was before
        return found

    def _same_boxes_of(self, lo: int, hi: int, old: slice) -> NDArray[np.int64]:
        """(hi - lo,) rows in `old` with the same boxes as rows [lo, hi) of the same photo; -1 for none."""
        if not self._jittered and np.array_equal(self.table.box_xyxy[lo:hi], self.old.box_xyxy[old]):
            return np.arange(old.start, old.stop)
        rows = np.arange(old.start, old.stop)
        valid = self.rows.usable(rows)
        known = {
            key: row for key, row, good in zip(self._keys(self.old, old), rows, valid, strict=True) if good
        }
        wanted = self._keys(self.table, slice(lo, hi))
        return np.array([known.get(key, -1) for key in wanted], np.int64)

    def _keys(self, table: BoxTable, rows: slice) -> list[tuple[Any, ...]]:
        boxes = [tuple(box) for box in table.box_xyxy[rows].tolist()]
        if not self._jittered:
            return boxes
        drawn = box_keys(table, np.arange(rows.start, rows.stop))
        return [(*key, *box) for key, box in zip(drawn, boxes, strict=True)]

    @property
    def old_index(self) -> Index:
        """The index of the older column."""
        return index_of(self.old)


def same_photos(
    index: Index, record: NDArray[Any], old: Index, old_record: NDArray[Any]
) -> NDArray[np.int64]:
    """Return (I,) the image row of `old` with the same photo as each image row of `index`; -1 for none.

    record, old_record: see `photo_record`. Of several rows with the same photo, the one of the same image id
    is taken, else the first.
    """
    images = np.full(len(index), -1, np.int64)
    if index.exif != old.exif:
        return images

    def keys(of: Index, entries: NDArray[Any]) -> list[tuple[bytes, int, int]]:
        digests = (digest.tobytes() for digest in entries["sha256"])
        return list(zip(digests, of.widths.tolist(), of.heights.tolist(), strict=True))

    first: dict[tuple[bytes, int, int], int] = {}
    old_keys = keys(old, old_record)
    for row, key in enumerate(old_keys):
        first.setdefault(key, row)
    rows_of_ids = dict(zip(old.image_ids.tolist(), range(len(old)), strict=True))
    known: NDArray[np.bool_] = np.asarray(record["sha256"].any(axis=1))
    for row, key in enumerate(keys(index, record)):
        if known[row]:
            same_id = rows_of_ids.get(int(index.image_ids[row]), -1)
            images[row] = same_id if same_id >= 0 and old_keys[same_id] == key else first.get(key, -1)
    return images
