"""Boxes of COCO segmentations: polygons, and masks as run lengths (RLE)."""

from __future__ import annotations

import math

import numpy as np

from cckt.cache_builder.index.formats.repairs import as_number


def box_of(segmentation: object, photo: tuple[object, object]) -> list[float] | None:
    """Return [x, y, width, height] of polygons or of a mask.

    photo: height and width of the photo. None where it is neither, empty, or a mask of another size.
    """
    if isinstance(segmentation, list):
        return _box_of_polygons(segmentation)
    if isinstance(segmentation, dict) and segmentation.get("size") == list(photo):
        return _box_of_mask(segmentation)
    return None


def _box_of_polygons(polygons: list[object]) -> list[float] | None:
    """polygons: lists [x0, y0, x1, y1, ...] of at least 3 corners."""
    corners: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return None
        for value in map(as_number, polygon):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return None
            corners.append(value)
    if not corners:
        return None
    x, y = corners[0::2], corners[1::2]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def _box_of_mask(mask: dict[str, object]) -> list[float] | None:
    """mask: "size" [height, width]; "counts", run lengths column by column, the first one outside."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        return None
    if isinstance(counts, str):
        counts = _decompress(counts)
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        return None
    height, width = size
    if sum(counts) != height * width:
        return None
    ends = np.cumsum(np.array(counts, np.int64))
    starts = np.concatenate([[0], ends])[:-1]
    inside = (np.arange(len(counts)) % 2 == 1) & (ends > starts)
    if not inside.any():
        return None
    first, last = starts[inside], ends[inside] - 1
    columns, last_columns = first // height, last // height
    several = columns != last_columns  # a run over several columns touches the first and the last row
    x0, x1 = int(columns.min()), int(last_columns.max())
    y0 = int(np.where(several, 0, first % height).min())
    y1 = int(np.where(several, height - 1, last % height).max())
    return [x0, y0, x1 - x0 + 1, y1 - y0 + 1]


def _decompress(text: str) -> list[int] | None:
    """Return the run lengths of COCO's compressed RLE.

    Each character has 5 bits; from the fourth length on, each is the difference to the last but one. None for
    a text that is no such code.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    return None if shift else counts
