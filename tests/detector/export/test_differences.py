"""Differences of a graph from torch, against plain loops."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from cckt.detector.export.differences import differences


def outputs(seed: int, regions: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, regions, 4, generator=generator), torch.rand(2, regions, 3, generator=generator)


def test_the_order_of_regions_is_no_difference() -> None:
    boxes, scores = outputs(0)
    order = torch.tensor([2, 0, 3, 1])
    assert differences([((boxes[:, order], scores[:, order]), (boxes, scores))], 1e-3) == ([0, 0], [0, 0])


def test_a_changed_region_is_compared_with_its_own() -> None:
    boxes, scores = outputs(1)
    other = boxes[:, [1, 0, 2, 3]].clone()
    other[0, 0, 0] += 0.25
    largest, mean = differences([((other, scores[:, [1, 0, 2, 3]]), (boxes, scores))], 1e-3)
    assert largest == pytest.approx([0.25, 0])
    assert mean == pytest.approx([0.25 / boxes.numel(), 0])


@pytest.mark.parametrize("seed", range(5))
def test_pairs_have_the_least_sum_of_differences(seed: int) -> None:
    found, expected = outputs(seed, 3), outputs(seed + 100, 3)
    gaps = []
    for image in range(2):
        rows = [torch.cat([a[image], b[image]], -1) for a, b in (found, expected)]
        best = min(
            permutations(range(3)),
            key=lambda order: sum(
                float((rows[0][at] - row).abs().max()) for at, row in zip(order, rows[1], strict=True)
            ),
        )
        gaps.append(
            [(one[image][list(best)] - two[image]).abs() for one, two in zip(found, expected, strict=True)]
        )
    largest, mean = differences([(found, expected)], 1e-3)
    assert largest == pytest.approx([max(float(gap[k].max()) for gap in gaps) for k in (0, 1)])
    assert mean == pytest.approx([sum(float(gap[k].mean()) for gap in gaps) / 2 for k in (0, 1)])


def test_nan_differs() -> None:
    boxes, scores = outputs(2)
    broken = scores.clone()
    broken[0, 0, 0] = math.nan
    largest, mean = differences([((boxes, broken), (boxes, scores))], 1e-3)
    assert (largest[0], math.isnan(largest[1]), math.isnan(mean[1])) == (0, True, True)
