"""Crop rules: which pixels around a box the teacher sees (docs/method/cckt_det.md, section 3;
docs/method/hd_ovd.md, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import CROP, MIN_SIDE
from cckt.cache_builder.base.errors import UserError

CONTEXT = 8.0
"""Area of a context square over the area of its box; docs/method/cckt_det.md, eq. 3."""

RULES = {
    "box": {
        "rule": "box",
        "rounding": "floor left and top, ceil right and bottom",
        "min_side": MIN_SIDE,
        "crowd": "invalid",
    },
    "square": {
        "rule": "square",
        "area": CONTEXT,
        "outside": "moved inside; an axis too short for it is taken whole",
        "rounding": "side to the nearest pixel",
        "min_side": MIN_SIDE,
        "crowd": "invalid",
    },
    "oadp": {
        "rule": "oadp",
        "area": CONTEXT,
        "outside": "moved inside; an axis too short for it reaches over the edge, in black",
        "rounding": "side to the nearest pixel",
        "attention": "second class token, on the patches of the box; grid of half the stride",
        "min_side": MIN_SIDE,
        "crowd": "invalid",
    },
}
"""Crop rules by name, as a column's recipe holds them."""


def check_rule(crop: str) -> None:
    """Raise UserError unless `crop` is a crop rule."""
    if crop not in RULES:
        raise UserError(f"--crop {crop} is not known; choose one of {', '.join(RULES)}.")


def crop_rectangles(boxes: NDArray[np.float64], size: tuple[int, int], rule: str = CROP) -> NDArray[np.int64]:
    """Return the rectangles of crops, (n, 4) int64 (left, top, right, bottom) in whole pixels.

    boxes: (n, 4) float64 xyxy in pixels. size: (width, height) of the photo; rectangles are inside it, except
    for "oadp". right and bottom are exclusive.

    "box": the box, clipped to the photo and extended to whole pixels (floor, ceil), so that every pixel it
    touches is inside. "square": a square around the box's centre with side sqrt(8 * area), to the nearest
    pixel (docs/method/cckt_det.md, eq. 3), moved, not cut, to stay inside the photo; an axis shorter than the
    side is taken whole. "oadp": the same square, but an axis shorter than the side is not moved: the square
    reaches over the edge (docs/method/hd_ovd.md, eqs. 7 and 8).
    """
    extent = np.asarray(size, np.float64)
    low, high = np.clip(boxes[:, :2], 0, extent), np.clip(boxes[:, 2:], 0, extent)
    if rule == "box":
        return np.concatenate([np.floor(low), np.ceil(high)], axis=1).astype(np.int64)
    assert rule in RULES, f"expected a rule of {tuple(RULES)}, found {rule!r}"
    side = np.rint(np.sqrt(CONTEXT * (high - low).prod(axis=1, keepdims=True)))
    if rule == "oadp":
        side = np.maximum(side, 1)
        start = np.rint((low + high - side) / 2)
        start = np.where(side > extent, start, np.clip(start, 0, extent - side))
        return np.concatenate([start, start + side], axis=1).astype(np.int64)
    sides = np.clip(side, 1, extent)
    start = np.clip(np.rint((low + high - sides) / 2), 0, extent - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.int64)


def foreground(boxes: NDArray[np.float64], rectangles: NDArray[np.int64], grid: int) -> NDArray[np.bool_]:
    """Return (n, G, G) bool: which patches of crops lie on their box (docs/method/hd_ovd.md, eq. 9).

    boxes: (n, 4) xyxy and rectangles (n, 4) of their crops, in pixels of the photo. The mask of the pixels
    that the box touches, at the resolution of the crop, is resized to G x G by nearest neighbour. Where a box
    is so thin that no patch is left on an axis, the patch at its centre counts.
    """
    axes = []
    for axis in (0, 1):
        start, stop = rectangles[:, [axis]], rectangles[:, [axis + 2]]
        seen = start + (np.arange(grid) * (stop - start)) // grid  # nearest neighbour: floor(i * side / G)
        on_box = (seen >= np.floor(boxes[:, [axis]])) & (seen < np.ceil(boxes[:, [axis + 2]]))
        centre = (boxes[:, [axis]] + boxes[:, [axis + 2]]) / 2
        at_centre = np.arange(grid) == np.floor((centre - start) * grid / (stop - start))
        axes.append(np.where(on_box.any(1, keepdims=True), on_box, at_centre))
    mask: NDArray[np.bool_] = axes[1][:, :, None] & axes[0][:, None, :]
    return mask
