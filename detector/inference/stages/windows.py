"""Predict on large photos in overlapping windows, so that small objects are seen at full size.

As SAHI does (Akyon et al. 2022, "Slicing Aided Hyper Inference"): the photo as a whole and its windows are
predicted separately, and the detections are merged. The whole photo finds what is larger than a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.detector.inference.postprocess import SAME_OBJECT
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.stages.open_photo import Photo, open_photo

OVERLAP = 0.2
"""Default overlap of neighbouring windows, as a share of their side."""
SMALLEST = 16
"""Smallest side of a window in pixels."""
MOST = 100_000
"""Most windows of a photo: hours of work. Half as many pixels per side give four times as many."""
INSIDE = 0.6
"""Share of a cut box inside a box of its concept from another window above which both show one object."""
EDGE = 2.0
"""Distance in pixels from an inner edge of its window at which a box counts as cut by the edge."""

Window = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the photo."""


@dataclass(frozen=True)
class Windows:
    """Windows of `side` px that overlap by the share `overlap`. Raises UserError for values out of range."""

    side: int
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if self.side < SMALLEST:
            raise UserError(
                f"--tile {self.side}: expected at least {SMALLEST} pixels; give the side of a window, such "
                "as 640."
            )
        if not 0 <= self.overlap < 1:
            raise UserError(
                f"--overlap {self.overlap:g}: expected a share from 0 to below 1, such as {OVERLAP}."
            )

    def of(self, width: int, height: int) -> list[Window]:
        """Return the whole photo, then its windows from the upper left, row by row.

        The last window of a row or column ends at the edge of the photo. A photo that fits into one window
        has only itself. Raises UserError for more than MOST windows.
        """
        whole = [(0, 0, width, height)]
        if max(width, height) <= self.side:
            return whole
        columns, rows = self._starts(width), self._starts(height)
        if len(columns) * len(rows) > MOST:
            raise UserError(
                f"--tile {self.side} with --overlap {self.overlap:g}: a photo of {width} x {height} px has "
                f"{len(columns) * len(rows)} windows, expected at most {MOST}; give a larger --tile or a "
                "smaller --overlap."
            )
        across, down = min(self.side, width), min(self.side, height)
        return whole + [(x, y, x + across, y + down) for y in rows for x in columns]

    def _starts(self, length: int) -> list[int]:
        """Return the first pixel of each window along a side of `length` px."""
        if length <= self.side:
            return [0]
        step = max(1, round(self.side * (1 - self.overlap)))
        return [*range(0, length - self.side, step), length - self.side]


def predict_in_windows(
    predict: Callable[[Iterator[Image.Image]], Iterator[Prediction]],
    images: Iterable[Photo],
    windows: Windows,
    *,
    empty: Prediction,
    strict: bool,
    top: int,
    nms: float,
    multi_label: bool,
) -> Iterator[Prediction]:
    """Yield one prediction per image, merged from those of its windows.

    predict: yields one prediction per given image, in order, as `Predictor.stream` does. empty: a prediction
    without detections, of the vocabulary. strict: as for `open_photo`. top: most detections of an image.
    nms, multi_label: as for `merge_windows`.
    """
    waiting: deque[tuple[tuple[int, int], str, str, list[Window]]] = deque()

    def crops() -> Iterator[Image.Image]:
        for photo in images:
            image, name, fault = open_photo(photo, strict)
            places = [] if fault else windows.of(*image.size)
            waiting.append((image.size, name, fault, places))
            for place in places:
                yield image if place == (0, 0, *image.size) else image.crop(place)

    def unreadable() -> Iterator[Prediction]:
        while waiting and waiting[0][2]:
            _, name, fault, _ = waiting.popleft()
            yield replace(empty, size=(0, 0), source=name, fault=fault)

    parts: list[Prediction] = []
    for part in predict(crops()):
        yield from unreadable()
        parts.append(part)
        size, name, _, places = waiting[0]
        if len(parts) == len(places):
            waiting.popleft()
            merged = merge_windows(parts, places, size, nms=nms, multi_label=multi_label)
            yield replace(merged.where(np.arange(len(merged))[:top]), source=name)
            parts = []
    yield from unreadable()


def merge_windows(
    parts: list[Prediction],
    windows: list[Window],
    size: tuple[int, int],
    *,
    nms: float = 0.0,
    multi_label: bool = False,
) -> Prediction:
    """Return one prediction of a photo of `size` (width, height) from those of its windows.

    Greedy non-maximum suppression over all windows: boxes that an inner edge of their window cuts come after
    all others, and within each group the highest score is first. A box is dropped if its IoU with a kept one
    is above SAME_OBJECT (with `multi_label`, one of the same concept), or above `nms` with one of the same
    concept (0: no further rule). A cut box is also dropped if more than INSIDE of it is in a kept box of its
    concept from another window.
    """
    if len(parts) == 1:
        return parts[0]
    boxes, cut = [], []
    for part, (left, top, right, bottom) in zip(parts, windows, strict=True):
        offset = np.array([left, top, left, top], np.float32)
        boxes.append(part.boxes_xyxy + offset)
        low = (boxes[-1][:, :2] <= (left + EDGE, top + EDGE)) & (np.array((left, top)) > 0)
        high = (boxes[-1][:, 2:] >= (right - EDGE, bottom - EDGE)) & (np.array((right, bottom)) < size)
        cut.append(low.any(1) | high.any(1))
    joined = replace(
        parts[0],
        boxes_xyxy=np.concatenate(boxes),
        scores=np.concatenate([part.scores for part in parts]),
        concepts=np.concatenate([part.concepts for part in parts]),
        size=size,
        present=None,
    )
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    joined_cut = np.concatenate(cut)
    order = np.lexsort((-joined.scores, joined_cut))
    of_same, of_others = min(nms or SAME_OBJECT, SAME_OBJECT), np.inf if multi_label else SAME_OBJECT
    kept: list[int] = []
    for one in order.tolist():
        union, inside = _overlaps(joined.boxes_xyxy[one], joined.boxes_xyxy[kept])
        same = joined.concepts[kept] == joined.concepts[one]
        repeated = union > np.where(same, of_same, of_others)
        if joined_cut[one]:
            repeated |= same & (numbers[kept] != numbers[one]) & (inside > INSIDE)
        if not repeated.any():
            kept.append(one)
    rows = np.array(kept, np.int64)
    return joined.where(rows[np.argsort(-joined.scores[rows], kind="stable")])


def _overlaps(
    box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (K,) IoU of a box with others, and (K,) the share of the box inside each of them."""
    one, table = box.astype(np.float64), others.astype(np.float64).reshape(-1, 4)
    low, high = np.maximum(one[:2], table[:, :2]), np.minimum(one[2:], table[:, 2:])
    shared: npt.NDArray[np.float64] = np.prod(np.clip(high - low, 0, None), 1)
    area, areas = np.prod(one[2:] - one[:2]), np.prod(table[:, 2:] - table[:, :2], axis=1)
    tiny = np.finfo(np.float64).tiny
    return shared / np.maximum(area + areas - shared, tiny), shared / max(area, tiny)
