"""RoIAlign as a sparse product against torchvision's, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from cckt.detector.students.faster_rcnn.roi_align_cpu import SAMPLES, align_rois


def both(level: Tensor, rois: Tensor, cells: int, scale: float) -> tuple[list[Tensor], list[Tensor]]:
    """Return result and gradient for the map, ours and torchvision's, with one gradient of the result."""
    answers = []
    for align in (align_rois, lambda *given: roi_align(*given, SAMPLES, aligned=True)):
        one = level.clone().requires_grad_()
        size = cells if align is align_rois else (cells, cells)
        out = align(one, rois, size, scale)
        generator = torch.Generator().manual_seed(1)
        out.backward(torch.randn(out.shape, generator=generator))
        assert one.grad is not None
        answers.append([out.detach(), one.grad])
    return answers[0], answers[1]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 99),
    st.integers(0, 7),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
)
def test_results_and_gradients_are_torchvisions(
    seed: int, count: int, cells: int, height: int, width: int, last: bool
) -> None:
    """Boxes inside, across and far outside the map, upside down and without area."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn((2, 3, height, width), generator=generator)
    if last:
        level = level.contiguous(memory_format=torch.channels_last)
    boxes = torch.randn((count, 4), generator=generator) * 8 * max(height, width)
    boxes[: count // 2, 2:] = boxes[: count // 2, :2]
    image = torch.randint(0, 2, (count, 1), generator=generator).float()
    mine, expected = both(level, torch.cat([image, boxes], 1), cells, 1 / 8)
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", [-8.0, -7.99, -4.0, 0.0, 3.999, 4.0, 28.0, 35.99, 36.0, 36.01])
def test_samples_at_the_borders(place: float) -> None:
    """A sample reads nothing if it is more than one cell outside the map, which has 4 cells of 8 pixels."""
    level = torch.arange(1.0, 17).view(1, 1, 4, 4)
    rois = torch.tensor([[0.0, place, 16, place, 16], [0.0, 16, place, 16, place]])
    mine, expected = both(level, rois, 1, 1 / 8)
    torch.testing.assert_close(mine, expected)


def test_without_gradients_it_is_torchvisions_own() -> None:
    level, rois = torch.randn(1, 2, 5, 5), torch.tensor([[0.0, 3, 4, 30, 31]])
    assert torch.equal(
        align_rois(level, rois, 2, 0.125), roi_align(level, rois, (2, 2), 0.125, 2, aligned=True)
    )
