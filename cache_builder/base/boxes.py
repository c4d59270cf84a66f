"""Convert between the two forms of boxes: corners x0, y0, x1, y1, and left, top, width, height."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def xywh_of(xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (M, 4) boxes as left, top, width and height, from (M, 4) corners in the same unit."""
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def iou_of(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (K, M) IoU of boxes (K, 4) and (M, 4), both as corners; 0 where neither has an area."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(one[:, 2:] - one[:, :2]).prod(1) for one in (boxes, others)]
    whole = areas[0][:, None] + areas[1][None] - shared
    overlap: NDArray[np.float64] = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return overlap
