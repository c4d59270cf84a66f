from __future__ import annotations

import numpy as np

from cckt.cache_builder.base.boxes import xywh_of


def test_corners_as_left_top_width_height():
    assert xywh_of(np.zeros((0, 4))).shape == (0, 4)
    corners = np.array([[1.0, 2.0, 4.0, 8.0], [0.5, 0.0, 0.5, 3.0]])
    assert xywh_of(corners).tolist() == [[1.0, 2.0, 3.0, 6.0], [0.5, 0.0, 0.0, 3.0]]
