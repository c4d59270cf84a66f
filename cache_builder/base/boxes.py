"""Convert between the two forms of boxes: corners x0, y0, x1, y1, and left, top, width, height."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def xywh_of(xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (M, 4) boxes as left, top, width and height, from (M, 4) corners in the same unit."""
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
