"""Further views of the annotated boxes: mirrored (`crops-flipped`), or moved and scaled (`crops-jitter-K`).

A student that sees a photo mirrored learns from the mirrored crop. A student that learns from several boxes
near an object does not learn the annotator's exact pixels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import MIN_SIDE
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.presence import seed_of
from cckt.cache_builder.proposals import Proposals
from cckt.cache_builder.store import ColumnName
from cckt.cache_builder.store.kinds import FLIPPED, JITTER

SHIFT = 0.1
"""The centre of a jittered box moves by at most this fraction of the box's sides, in each direction."""

SCALE = 1.25
"""Each of its sides is multiplied by a factor of 1 / SCALE to SCALE, uniform in the logarithm."""

MOST_JITTERS = 99
"""Largest value of --jitter."""

PLAIN = ColumnName("crops")

BoxTable = Index | Proposals
"""What crops are cut from: the annotated boxes of an index, or proposals."""


def view_recipe(name: ColumnName) -> dict[str, Any]:
    """Return the part of a recipe that describes the view; empty for the plain view."""
    if name.jitter:
        drawn = "PCG64 seeded by (annotation id, number)"
        if name.kind != PLAIN.kind:
            drawn = "PCG64 seeded by (image id, rank, number)"
        return {"view": {"jitter": name.jitter, "shift": SHIFT, "scale": SCALE, "drawn": drawn}}
    return {"view": {"flipped": True}} if name.view else {}


def view_names(
    label: str = "", flipped: bool = False, jitter: int = 0, plain: ColumnName = PLAIN
) -> list[ColumnName]:
    """Return the names of one teacher's columns of crops: plain, `flipped`, and `jitter` jittered ones.

    plain: kind and table of the columns. UserError for a number out of range.
    """
    if not 0 <= jitter <= MOST_JITTERS:
        raise UserError(f"--jitter is {jitter}; give 0 (none) to {MOST_JITTERS} views.")
    views = ["", *([FLIPPED] if flipped else []), *(f"{JITTER}-{k + 1}" for k in range(jitter))]
    return [replace(plain, label=label, view=view) for view in views]


def jittered_boxes(table: BoxTable, rows: NDArray[np.int64], number: int) -> NDArray[np.float64]:
    """Return the boxes of `rows` (n,) moved, scaled and clipped, (n, 4) float64 xyxy in pixels.

    The random numbers of a box depend only on its annotation id (of a proposal: on the image id and its rank
    there) and on `number` (from 1). A box keeps at least one pixel of its photo, because it moves by less
    than its size.
    """
    drawn = (
        np.stack(
            [
                np.random.Generator(np.random.PCG64([*key, number])).uniform(-1, 1, 4)
                for key in box_keys(table, rows)
            ]
        )
        if len(rows)
        else np.zeros((0, 4))
    )
    boxes = table.box_xyxy[rows]
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + drawn[:, :2] * SHIFT * sides
    halves = sides * SCALE ** drawn[:, 2:] / 2
    images, index = table.box_images[rows], index_of(table)
    extent = np.stack([index.widths[images], index.heights[images]], axis=1).astype(np.float64)
    low, high = np.clip(centres - halves, 0, extent), np.clip(centres + halves, 0, extent)
    return np.concatenate([low, high], axis=1)


def index_of(table: BoxTable) -> Index:
    """Return the index that a table of boxes belongs to."""
    return table if isinstance(table, Index) else table.index


def box_keys(table: BoxTable, rows: NDArray[np.int64]) -> list[list[int]]:
    """Return what the jitter of each box is drawn from: its annotation id, or image id and rank."""
    if isinstance(table, Index):
        return [[seed_of(annotation)] for annotation in table.annotation_ids[rows]]
    images = table.index.image_ids[table.box_images[rows]]
    return [[seed_of(image), int(rank)] for image, rank in zip(images, table.ranks[rows], strict=True)]


def usable_boxes(table: BoxTable, lo: int = 0, hi: int | None = None) -> NDArray[np.bool_]:
    """Return (hi - lo,) bool: whether a box has an embedding, if its photo can be read.

    It is not a crowd and both sides are at least 16 px. The index has clipped the boxes to their photos.
    """
    boxes = table.box_xyxy[lo:hi]
    usable: NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1) & ~table.iscrowd[lo:hi]
    return usable


def photos_with_crops(table: BoxTable) -> NDArray[np.int32]:
    """Return the ascending image rows with at least one box that gets an embedding."""
    return np.unique(table.box_images[usable_boxes(table)])
