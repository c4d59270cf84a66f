"""Boxes of polygons and masks, against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from cckt.cache_builder.index.formats.segmentation import box_of


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], {}, "polygon", [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1, 2, 3, "a", 5, 6]],
        [1, 2, 3, 4, 5, 6],
        {"size": [2, 2]}, {"size": [2, 2], "counts": [3]}, {"size": [2, 2], "counts": [4]},
        {"size": [2], "counts": [0, 4]}, {"size": [2, 2], "counts": [-1, 5]}, {"size": [2, 2], "counts": "é"},
    ],
)  # fmt: skip
def test_what_is_no_segmentation_has_no_box(segmentation: Any) -> None:
    assert box_of(segmentation, (2, 2)) is None


def test_polygons_have_one_box_around_all_their_corners() -> None:
    assert box_of([[10, 10, 40, 10, 40, 50, 10, 50]], (60, 60)) == [10, 10, 30, 40]
    assert box_of([[10, 10, 40, "10", 40, 50.5], [0, 20, 5, 20, 5, 25]], (60, 60)) == [0, 10, 40, 40.5]


@given(mask=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_a_mask_has_the_box_that_pycocotools_gives(mask: np.ndarray) -> None:
    packed = coco_mask.encode(np.asfortranarray(mask))
    text = {"size": list(packed["size"]), "counts": packed["counts"].decode()}
    columns = mask.flatten(order="F").tolist()
    counts, value = [0], 0
    for pixel in columns:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    plain = {"size": list(mask.shape), "counts": counts}
    expected = coco_mask.toBbox(packed).tolist() if mask.any() else None
    assert box_of(text, mask.shape) == expected
    assert box_of(plain, mask.shape) == expected
    height, width = mask.shape
    assert box_of(plain, (height, width + 1)) is None, "a mask of another photo"


@given(text=st.text(max_size=12))
def test_no_text_breaks_the_decoder(text: str) -> None:
    box_of({"size": [3, 3], "counts": text}, (3, 3))
