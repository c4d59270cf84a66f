"""Rectangles of crops around boxes (docs/method/cckt_det.md, eq. 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import CROP

CONTEXT = 8.0
"""Area of a context square over the area of its box; docs/method/cckt_det.md, eq. 3."""


def crop_rectangles(boxes: NDArray[np.float64], size: tuple[int, int], rule: str = CROP) -> NDArray[np.int64]:
    """Return the rectangles of crops, (n, 4) int64 (left, top, right, bottom) in whole pixels.

    boxes: (n, 4) float64 xyxy in pixels. size: (width, height) of the photo; rectangles are inside it. right
    and bottom are exclusive.

    "box": the box, clipped to the photo and extended to whole pixels (floor, ceil), so that every pixel it
    touches is inside. "square": a square around the box's centre with side sqrt(8 * area), to the nearest
    pixel (docs/method/cckt_det.md, eq. 3), moved, not cut, to stay inside the photo; an axis shorter than the
    side is taken whole.
    """
    extent = np.asarray(size, np.float64)
    low, high = np.clip(boxes[:, :2], 0, extent), np.clip(boxes[:, 2:], 0, extent)
    if rule == "box":
        return np.concatenate([np.floor(low), np.ceil(high)], axis=1).astype(np.int64)
    assert rule == "square", f"expected the rule box or square, found {rule!r}"
    side = np.rint(np.sqrt(CONTEXT * (high - low).prod(axis=1, keepdims=True)))
    sides = np.clip(side, 1, extent)
    start = np.clip(np.rint((low + high - sides) / 2), 0, extent - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.int64)
