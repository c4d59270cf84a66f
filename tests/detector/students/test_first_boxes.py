"""Best distinct boxes in fixed shapes, against plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cckt.detector.students.backbones.fpn import FeaturePyramid, level_strides
from cckt.detector.students.contract import MASKED
from cckt.detector.students.first_boxes import (
    REAL,
    best,
    best_of_levels,
    cell_corners,
    distinct,
    image_sizes,
    inside,
    rows,
)


def slow_nms(boxes: list[list[float]], scores: list[float], overlap: float) -> set[int]:
    """Greedy suppression in plain arithmetic."""
    kept: list[int] = []
    for one in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        if all(slow_iou(boxes[one], boxes[other]) <= overlap for other in kept):
            kept.append(one)
    return set(kept)


def slow_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / area if area > 0 else 0.0


def some_corners(*shape: int) -> Tensor:
    low = torch.rand(*shape, 2) * 0.6
    return torch.cat([low, low + torch.rand(*shape, 2) * 0.3 + 0.05], -1)


def test_no_cells_give_only_padding() -> None:
    places, real = best(torch.full((2, 1), MASKED), 3)
    assert places.shape == (2, 3)
    assert not bool(real.any())


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 9))
@settings(deadline=None, max_examples=25)
def test_the_best_cells_are_the_best(seed: int, cells: int, count: int) -> None:
    torch.manual_seed(seed)
    scores = torch.randn(2, cells).masked_fill(torch.rand(2, cells) < 0.3, MASKED)
    places, real = best(scores, count)
    for image in range(2):
        known = [k for k in range(cells) if float(scores[image, k]) > REAL]
        expected = sorted(known, key=lambda k: -float(scores[image, k]))[:count]
        assert places[image, real[image]].tolist() == expected
        assert bool((places[image] < cells).all())


def test_each_level_gives_its_own_best() -> None:
    levels = [torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[0.3]])]
    places, real, level = best_of_levels(levels, 2)
    assert places.tolist() == [[1, 2, 3]]
    assert real.tolist() == [[True, True, True]]
    assert level.tolist() == [0, 0, 1]


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_suppression_equals_plain_loops_in_every_image_and_group(seed: int) -> None:
    torch.manual_seed(seed)
    boxes, scores, group = some_corners(2, 12), torch.randn(2, 12), torch.arange(12) % 3
    found = distinct(boxes, scores, 0.4, group)
    for image in range(2):
        for number in range(3):
            own = (group == number).nonzero()[:, 0].tolist()
            kept = slow_nms(boxes[image, own].tolist(), scores[image, own].tolist(), 0.4)
            assert {k for k, one in enumerate(own) if bool(found[image, one])} == kept
    whole = distinct(boxes, scores, 0.4)
    expected = slow_nms(boxes[0].tolist(), scores[0].tolist(), 0.4)
    assert set(whole[0].nonzero()[:, 0].tolist()) == expected


def test_sizes_are_those_without_padding() -> None:
    images, padding = torch.zeros(2, 3, 10, 14), torch.zeros(2, 10, 14, dtype=torch.bool)
    padding[1, 6:], padding[1, :, 9:] = True, True
    assert image_sizes(images, None).tolist() == [[14, 10], [14, 10]]
    assert image_sizes(images, padding).tolist() == [[14, 10], [9, 6]]


def test_cells_that_begin_in_the_padding_are_outside() -> None:
    corners = cell_corners(torch.zeros(1, 1, 2, 3), 4)
    assert corners.tolist() == [[0, 0], [4, 0], [8, 0], [0, 4], [4, 4], [8, 4]]
    assert inside(corners, torch.tensor([[9.0, 4.0]])).tolist() == [[True, True, True, False, False, False]]


def test_rows_takes_any_trailing_shape() -> None:
    values = torch.arange(12).view(1, 3, 2, 2)
    assert rows(values, torch.tensor([[2, 0]])).tolist() == [[values[0, 2].tolist(), values[0, 0].tolist()]]


@pytest.mark.parametrize("norm", [True, False])
def test_added_levels_halve_and_round_up(norm: bool) -> None:
    pyramid = FeaturePyramid([4, 6], 4, 32, norm=norm)
    maps = [torch.randn(2, 4, 13, 9), torch.randn(2, 6, 7, 5)]
    found = pyramid(maps)
    assert [tuple(one.shape) for one in found] == [
        (2, 32, 13, 9),
        (2, 32, 7, 5),
        (2, 32, 4, 3),
        (2, 32, 2, 2),
    ]
    assert level_strides((8, 16), 4) == [8, 16, 32, 64]
    if not norm:  # an added level is a part of the one before
        assert torch.equal(found[2], found[1][:, :, ::2, ::2])
