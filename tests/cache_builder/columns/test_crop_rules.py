"""OADP's square and its patches (docs/method/hd_ovd.md, eqs. 7 to 9), and the column made of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.recompute import verify_data
from cckt.cache_builder.columns.views import usable_boxes
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.crop_rules import crop_rectangles, foreground
from tests.cache_builder.samples import write_photos


@st.composite
def boxes(draw: st.DrawFn) -> tuple[list[float], tuple[int, int]]:
    width, height = draw(st.integers(20, 300)), draw(st.integers(20, 300))
    x, y = draw(st.floats(0, width - 8)), draw(st.floats(0, height - 8))
    return [x, y, draw(st.floats(x + 2, width)), draw(st.floats(y + 2, height))], (width, height)


@settings(deadline=None, max_examples=80)
@given(boxes())
def test_a_square_is_moved_as_equation_8_says(case) -> None:
    box, size = case
    (found,) = crop_rectangles(np.array([box]), size, "oadp").tolist()
    side = max(1, round(math.sqrt(8 * (box[2] - box[0]) * (box[3] - box[1]))))
    for axis, extent in enumerate(size):
        low = round((box[axis] + box[axis + 2] - side) / 2)
        high = low + side
        shift = 0 if side > extent else extent - high if high > extent else -low if low < 0 else 0
        assert found[axis] == low + shift
        assert found[axis + 2] - found[axis] == side


@settings(deadline=None, max_examples=80)
@given(boxes(), st.sampled_from([4, 14]))
def test_foreground_patches_are_the_mask_resized_by_nearest_neighbour(case, grid: int) -> None:
    box, size = case
    (left, top, right, bottom) = crop_rectangles(np.array([box]), size, "oadp")[0].tolist()
    (found,) = foreground(np.array([box]), np.array([[left, top, right, bottom]]), grid)
    side = right - left
    mask = np.zeros((side, side), bool)
    mask[
        max(0, math.floor(box[1]) - top) : math.ceil(box[3]) - top,
        max(0, math.floor(box[0]) - left) : math.ceil(box[2]) - left,
    ] = True
    picked = [k * side // grid for k in range(grid)]
    expected = mask[np.ix_(picked, picked)]
    assert found.any(), "a thin box has a patch"
    if expected.any():
        np.testing.assert_array_equal(found, expected)


def test_no_boxes_have_no_squares_and_no_patches() -> None:
    assert crop_rectangles(np.zeros((0, 4)), (9, 9), "oadp").shape == (0, 4)
    assert foreground(np.zeros((0, 4)), np.zeros((0, 4), np.int64), 14).shape == (0, 14, 14)


def test_the_column_holds_the_foreground_of_each_square(tmp_path: Path, teacher: Teacher) -> None:
    data = write_photos(tmp_path / "set", photos=3, boxes=2)
    cache_crops(data, teacher, crop="oadp", batch=2, workers=0)
    index, column = open_index(data), open_column(data, "crops")
    for row in np.flatnonzero(usable_boxes(index)).tolist():
        photo = Image.open(index.photo_path(index.box_images[row])).convert("RGB")
        rectangle = crop_rectangles(index.box_xyxy[row : row + 1], photo.size, "oadp")
        pixels = teacher.preprocess.pixels(photo.crop(tuple(rectangle[0].tolist())))
        mask = foreground(index.box_xyxy[row : row + 1], rectangle, 4)
        np.testing.assert_allclose(
            column.take([row])[0], teacher.launch_masked(pixels[None], mask)()[0], atol=2e-3
        )
    (report,) = verify_data(data)
    assert report.ok
    assert report.agreement is not None
    cache_crops(data, teacher, crop="oadp", view="flipped", workers=0)
    assert (open_column(data, "crops-flipped").all() != column.all()).any()


def test_what_the_rule_cannot_do_is_refused(tmp_path: Path, teacher: Teacher) -> None:
    data = write_photos(tmp_path / "set", photos=3, boxes=1)
    with pytest.raises(UserError, match="--fast cannot be used with --crop oadp"):
        cache_crops(data, teacher, crop="oadp", fast=True)
    with pytest.raises(UserError, match="--crop oadp needs a CLIP whose image tower is a ViT"):
        cache_crops(data, load_teacher("shapeworld", device="cpu"), crop="oadp")
    assert not (data / "crops").exists()
