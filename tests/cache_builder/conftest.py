"""A photo for the tests of reading photos."""

from __future__ import annotations

import numpy as np
import pytest

WIDTH, HEIGHT = 23, 17


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth photo, so that JPEG keeps it; no two corners alike."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 11, y * 14, 255 - x * 5 - y * 5], axis=-1).astype(np.uint8)
