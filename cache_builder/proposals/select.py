"""From a detector's boxes of an image to its row of the column `proposals/boxes`.

A row is K slots of six float32 values: left, top, right and bottom in pixels of the original image, the
score, and 1 if the box repeats an annotated box, else 0. Slots are filled best first; unused slots are zeros.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.boxes import iou_of
from cckt.cache_builder.base.constants import MIN_SIDE, NMS, REPEATS, TOP
from cckt.cache_builder.base.errors import UserError

SLOT = 6
"""Values of a slot."""

CANDIDATES = 2000
"""Boxes of an image, best first, that enter non-maximum suppression."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """Which boxes of an image become proposals. Raises UserError for numbers out of range."""

    top: int = TOP
    """K, the most proposals of an image."""
    nms: float = NMS
    """IoU above which the worse of two boxes is dropped; 1 keeps all."""
    min_side: float = MIN_SIDE
    """Shortest side, in pixels of the original image; boxes with a shorter one are dropped."""
    repeats: float = REPEATS
    """IoU from which a box repeats an annotated box that is no crowd; it is kept and marked."""
    candidates: int = CANDIDATES
    """Boxes of an image, best first, that enter non-maximum suppression."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UserError(f"--top is {self.top}; give at least 1 proposal per image.")
        if not 0 < self.nms <= 1:
            raise UserError(f"--nms is {self.nms:g}; give an IoU above 0 and at most 1 (1 keeps all boxes).")
        if not 0 <= self.min_side < np.inf:
            raise UserError(f"--min-side is {self.min_side:g}; give a number of pixels, 0 or more.")

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.top * SLOT

    def to_json(self) -> dict[str, Any]:
        """Return the selection as a recipe holds it."""
        return asdict(self)

    def row(
        self, boxes: Floats, scores: Floats, annotated: Floats, size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return the row of an image, (6 K,) float32.

        boxes: (S, 4) xyxy in pixels, which may reach over the image; scores: (S,), any finite range. Boxes
        with values that are not finite are dropped. annotated: (M, 4) xyxy boxes of the image without crowds.
        size: (width, height). Of equal scores the earlier box is better.
        """
        limits = np.array([*size, *size], np.float64)
        finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
        # Rounded to float32 first, so that a stored box is exactly the one that was selected.
        clipped = np.clip(boxes[finite], 0, limits).astype(np.float32).astype(np.float64)
        sides = clipped[:, 2:] - clipped[:, :2]
        large = ((sides >= self.min_side) & (sides > 0)).all(1)
        ranked = scores[finite][large].astype(np.float32)
        order = np.argsort(-ranked, kind="stable")[: self.candidates]
        best = clipped[large][order]
        kept = suppress(best, self.nms, self.top)
        row = np.zeros((self.top, SLOT), np.float32)
        found = best[kept]
        row[: len(found), :4], row[: len(found), 4] = found, ranked[order][kept]
        return self.marked(row.ravel(), annotated)

    def marked(self, row: NDArray[np.float32], annotated: Floats) -> NDArray[np.float32]:
        """Return a row (6 K,) with the marks of boxes that repeat an annotated one; see `row`."""
        slots = row.reshape(self.top, SLOT).copy()
        slots[:, 5] = 0
        used = used_slots(row[None])[0]
        if len(annotated) and used.any():
            boxes = slots[used, :4].astype(np.float64)
            slots[used, 5] = iou_of(boxes, annotated).max(1) >= self.repeats
        return slots.ravel()


def suppress(boxes: Floats, threshold: float, top: int) -> NDArray[np.int64]:
    """Return the positions of the first `top` boxes that overlap no kept one before them by an IoU above
    `threshold`.

    boxes: (S, 4) xyxy, best first.
    """
    kept: list[int] = []
    alive = np.ones(len(boxes), bool)
    for position in range(len(boxes)):
        if not alive[position]:
            continue
        kept.append(position)
        if len(kept) == top:
            break
        rest = slice(position + 1, None)
        alive[rest] &= iou_of(boxes[position : position + 1], boxes[rest])[0] <= threshold
    return np.array(kept, np.int64)


def used_slots(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return (n, K) bool: which slots of rows (n, 6 K) hold a proposal. Used slots come first."""
    slots = rows.reshape(len(rows), -1, SLOT)
    used: NDArray[np.bool_] = slots[:, :, 2] > slots[:, :, 0]
    return used
