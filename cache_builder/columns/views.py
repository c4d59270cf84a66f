"""Other views of a box for the teacher: mirrored, or moved and scaled a little (`crops-flipped`,
`crops-jitter-k`).

A student that sees a photo mirrored should learn from the mirrored crop; one that learns from several near
boxes of an object does not learn the annotator's exact pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.store import ColumnName

SHIFT = 0.1
"""A jittered box's centre moves by at most this share of the box's sides, either way."""
SCALE = 1.25
"""Each of its sides is multiplied by 1 / SCALE to SCALE, evenly in the logarithm."""
MOST_JITTERS = 99


def view_recipe(name: ColumnName) -> dict[str, Any]:
    """What a column's recipe says of its view; nothing for the boxes as they are."""
    if name.jitter:
        drawn = "PCG64 seeded by (annotation id, number)"
        return {"view": {"jitter": name.jitter, "shift": SHIFT, "scale": SCALE, "drawn": drawn}}
    return {"view": {"flipped": True}} if name.view else {}


def view_names(label: str = "", flipped: bool = False, jitter: int = 0) -> list[ColumnName]:
    """The columns of crops of one teacher: as they are, mirrored where asked for, `jitter` jittered ones.

    UserError for a count out of range.
    """
    if not 0 <= jitter <= MOST_JITTERS:
        raise UserError(f"--jitter is {jitter}; give 0 (none) to {MOST_JITTERS} views.")
    views = ["", *(["flipped"] if flipped else []), *(f"jitter-{k + 1}" for k in range(jitter))]
    return [ColumnName("crops", label, view) for view in views]


def jittered_boxes(index: Index, rows: NDArray[np.int64], number: int) -> NDArray[np.float64]:
    """(n, 4) float64 xyxy in pixels: the boxes of `rows` (n,), each moved and scaled by what its annotation
    id and `number` (from 1) draw, clipped to its photo.

    A box keeps at least a pixel of its photo: it moves by less than it is large.
    """
    drawn = (
        np.stack(
            [
                np.random.Generator(np.random.PCG64([int(annotation), number])).uniform(-1, 1, 4)
                for annotation in index.annotation_ids[rows]
            ]
        )
        if len(rows)
        else np.zeros((0, 4))
    )
    boxes = index.box_xyxy[rows]
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + drawn[:, :2] * SHIFT * sides
    halves = sides * SCALE ** drawn[:, 2:] / 2
    images = index.box_images[rows]
    extent = np.stack([index.widths[images], index.heights[images]], axis=1).astype(np.float64)
    low, high = np.clip(centres - halves, 0, extent), np.clip(centres + halves, 0, extent)
    return np.concatenate([low, high], axis=1)
