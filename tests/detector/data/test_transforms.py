from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.detector.config.config import DataConfig
from cckt.detector.data.transforms import (
    View,
    apply_to_boxes,
    apply_to_image,
    draw_view,
    eval_view,
    normalise,
    pad_batch,
    resized,
)

SMALL = DataConfig(short_sides=(48, 64), max_side=100, eval_short_side=64)


def test_an_image_without_boxes():
    boxes, rows = apply_to_boxes(
        torch.zeros((0, 4), dtype=torch.float64), 40, 60, View((5, 5, 20, 20), (64, 64), True)
    )
    assert boxes.shape == (0, 4)
    assert boxes.dtype == torch.float32
    assert rows.shape == (0,)


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),
        (200, 1000, 800, 1333, (267, 1333)),
        (1, 5000, 800, 1333, (1, 1333)),
    ],
)
def test_resized_keeps_the_aspect_ratio_and_both_limits(height, width, short, longest, expected):
    assert resized(height, width, short, longest) == expected
    assert resized(width, height, short, longest) == expected[::-1]


def test_the_evaluation_view_is_the_whole_image():
    assert eval_view(30, 60, SMALL) == View(None, (50, 100))


def slow_boxes(boxes, height, width, view):
    """Transform each box by hand: crop, drop, flip, divide."""
    top, left, seen_height, seen_width = view.crop or (0, 0, height, width)
    found, rows = [], []
    for row, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        x0, x1 = (min(max(x - left, 0), seen_width) for x in (x0, x1))
        y0, y1 = (min(max(y - top, 0), seen_height) for y in (y0, y1))
        if x1 <= x0 or y1 <= y0:
            continue
        if view.flip:
            x0, x1 = seen_width - x1, seen_width - x0
        found.append(
            [
                (x0 + x1) / 2 / seen_width,
                (y0 + y1) / 2 / seen_height,
                (x1 - x0) / seen_width,
                (y1 - y0) / seen_height,
            ]
        )
        rows.append(row)
    return torch.tensor(found).view(-1, 4), torch.tensor(rows, dtype=torch.int64)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(20, 90), st.integers(20, 90), st.booleans())
def test_boxes_of_a_view_equal_a_plain_computation(seed, height, width, keeps_shape):
    rng = np.random.default_rng(seed)
    config = DataConfig(short_sides=(48, 64), max_side=100, eval_short_side=64, crop_keeps_shape=keeps_shape)
    view = draw_view(height, width, config, rng)
    corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1).reshape(6, 4) * [width, height, width, height]
    boxes = torch.from_numpy(corners)
    found, rows = apply_to_boxes(boxes, height, width, view)
    slow, slow_rows = slow_boxes(boxes, height, width, view)
    assert rows.tolist() == slow_rows.tolist()
    torch.testing.assert_close(found, slow.float())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(10, 300), st.integers(10, 300))
def test_a_drawn_view_is_inside_the_image_and_the_limits(seed, height, width):
    view = draw_view(height, width, SMALL, np.random.default_rng(seed))
    if view.crop is not None:
        top, left, cut_height, cut_width = view.crop
        assert top >= 0 <= left
        assert top + cut_height <= height
        assert left + cut_width <= width
    assert max(view.size) <= 100
    assert min(view.size) <= 64


def test_half_of_the_views_are_cropped_and_half_flipped():
    rng = np.random.default_rng(0)
    views = [draw_view(100, 120, SMALL, rng) for _ in range(400)]
    assert 150 < sum(view.crop is not None for view in views) < 250
    assert 150 < sum(view.flip for view in views) < 250
    assert {min(view.size) for view in views} == {48, 64}


def test_crops_that_keep_the_aspect_ratio_need_no_padding():
    config = DataConfig(short_sides=(64,), max_side=64, eval_short_side=64, crop_keeps_shape=True)
    rng = np.random.default_rng(0)
    views = [draw_view(128, 128, config, rng) for _ in range(100)]
    assert {view.size for view in views} == {(64, 64)}
    assert len({view.crop for view in views}) > 20


def test_pixels_and_boxes_are_transformed_alike():
    """A bright rectangle is at the position of its box in every view."""
    image = torch.zeros((3, 60, 80), dtype=torch.uint8)
    image[:, 20:40, 10:50] = 255
    box = torch.tensor([[10.0, 20, 50, 40]])
    for seed in range(20):
        view = draw_view(60, 80, SMALL, np.random.default_rng(seed))
        seen = apply_to_image(image, view)
        assert seen.dtype == torch.uint8
        assert tuple(seen.shape[1:]) == view.size
        (boxes, rows) = apply_to_boxes(box, 60, 80, view)
        height, width = view.size
        expected = torch.zeros(height, width)
        for cx, cy, w, h in boxes.tolist():
            y0, y1 = round((cy - h / 2) * height), round((cy + h / 2) * height)
            expected[y0:y1, round((cx - w / 2) * width) : round((cx + w / 2) * width)] = 1
        assert ((seen[0] > 127) != (expected > 0)).float().mean() < 0.06, (seed, view, rows)


def test_images_of_one_size_are_not_padded():
    batch, padding = pad_batch([torch.full((3, 4, 6), k, dtype=torch.uint8) for k in (1, 2)])
    assert padding is None
    assert batch[:, 0, 0, 0].tolist() == [1, 2]


def test_the_padding_mask_is_true_outside_the_images():
    images = [torch.full((3, 4, 6), 7, dtype=torch.uint8), torch.full((3, 5, 2), 9, dtype=torch.uint8)]
    batch, padding = pad_batch(images)
    assert batch.shape == (2, 3, 5, 6)
    assert padding.sum().item() == 6 + 5 * 4
    assert (batch[:, 0] > 0).eq(~padding).all()


def test_normalise_equals_the_formula_and_leaves_padding_zero():
    images = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    padding = torch.zeros(2, 5, 6, dtype=torch.bool)
    padding[1, 3:] = True
    found = normalise(images, padding, SMALL)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SMALL.mean, SMALL.std))
    expected = (images / 255 - mean) / std
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1, :, :3], expected[1, :, :3])
    assert not found[1, :, 3:].any()
