"""Rows of `proposals/boxes` that are copied from the table of an earlier index of the data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.columns.growth.begin import Growth, compare_rows
from cckt.cache_builder.columns.growth.donor import Donor
from cckt.cache_builder.columns.images import CopyingReader
from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals.select import Selection
from cckt.cache_builder.runner import Item

Read = Callable[[int, int], Iterable[Item]]

STATED = ("saw_novel", "trained_on")
"""Entries of a provenance that say nothing about the boxes."""


def copying(
    growth: Growth,
    index: Index,
    views: Read,
    propose: Callable[[list[Any]], Any],
    selection: Selection,
    reuse: str,
) -> tuple[Read, list[str]]:
    """Return the reader of a column that may copy rows of an older table, and a note if it does not.

    views: reads the inputs of the detector; propose: the runner's map. Boxes of a detector may depend on the
    other photos of a batch. So a row that differs when it is made again here is no error: with `reuse` "same"
    all rows are made then.
    """
    donor, recipe = growth.donor, growth.writer.spec.recipe
    if donor is None or not _same_maker(donor.rows.column.manifest.spec.recipe, recipe):
        growth.donor = None
        return views, []
    made, stored = (_unmarked(rows, selection) for rows in compare_rows(growth, views, propose, reuse))
    differ = int((made != stored).any(axis=1).sum())
    if differ:
        growth.donor = None
        return views, [
            f"{differ} of {len(made)} photos have other boxes when they are made again here, so no row was "
            "copied; --reuse any copies rows of unchanged photos all the same"
        ]
    return CopiedViews(index, views, donor, selection), []


@dataclass(frozen=True)
class CopiedViews:
    """Copies rows of unchanged photos from an older table, and reads the others. Picklable.

    Which boxes repeat an annotated one is decided again, by the annotations of the new index.
    """

    index: Index
    views: Read
    donor: Donor
    selection: Selection

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Yield the items of image rows [lo, hi)."""
        for item in CopyingReader(self.views, self.donor)(lo, hi):
            if item.value is None:
                yield item
            else:
                annotated, _ = annotated_boxes(self.index, item.row)
                yield replace(item, value=self.selection.marked(item.value, annotated))


def annotated_boxes(index: Index, image: int) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return the boxes of an image without crowds, (M, 4) xyxy, and its (width, height)."""
    boxes = index.boxes_of(image)
    kept: NDArray[np.float64] = index.box_xyxy[boxes][~index.iscrowd[boxes]]
    return kept, (int(index.widths[image]), int(index.heights[image]))


def _unmarked(rows: NDArray[Any], selection: Selection) -> NDArray[Any]:
    """Return rows (n, width) without the marks of boxes that repeat an annotated one."""
    none = np.zeros((0, 4))
    return np.stack([selection.marked(row, none) for row in rows]) if len(rows) else rows


def _same_maker(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two recipes name one maker, whatever is stated on its training."""
    makers = [{key: one for key, one in of["provenance"].items() if key not in STATED} for of in (old, new)]
    return makers[0] == makers[1]
