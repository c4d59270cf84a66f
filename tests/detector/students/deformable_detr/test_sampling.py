"""Deformable sampling and attention against plain loops and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cckt.detector.students.deformable_detr.attention import DeformableAttention
from cckt.detector.students.deformable_detr.sampling import Shapes, sample, sample_grid
from cckt.detector.students.deformable_detr.sampling_cpu import sample_bags


def by_gathering(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    return sample(value, shapes, locations, weights, "gather")


IMPLEMENTATIONS = [sample_grid, sample_bags, by_gathering]


def slow(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute one number at a time."""
    batch, _, heads, width = value.shape
    _, queries, _, levels, points, _ = locations.shape
    out = torch.zeros(batch, queries, heads * width, dtype=value.dtype)
    for b in range(batch):
        for q in range(queries):
            for head in range(heads):
                start = 0
                for level in range(levels):
                    height, breadth = shapes[level]
                    for point in range(points):
                        x = float(locations[b, q, head, level, point, 0]) * breadth - 0.5
                        y = float(locations[b, q, head, level, point, 1]) * height - 0.5
                        for row in (math.floor(y), math.floor(y) + 1):
                            for column in (math.floor(x), math.floor(x) + 1):
                                if 0 <= row < height and 0 <= column < breadth:
                                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                                    share *= float(weights[b, q, head, level, point])
                                    cell = value[b, start + row * breadth + column, head]
                                    out[b, q, head * width : (head + 1) * width] += share * cell
                    start += height * breadth
    return out


def problem(shapes: Shapes, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 inputs; locations from far outside to far inside, never at the edge of a cell."""
    torch.manual_seed(seed)
    cells = sum(h * w for h, w in shapes)
    value = torch.randn(2, cells, 2, 3, dtype=torch.float64)
    locations = torch.rand(2, 4, 2, len(shapes), 3, 2, dtype=torch.float64) * 2 - 0.5
    weights = torch.randn(2, 4, 2, len(shapes), 3, dtype=torch.float64)
    return value, locations, weights


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shapes", [[(1, 1)], [(3, 5), (2, 2)], [(1, 7), (6, 1), (4, 3)]])
def test_all_implementations_equal_plain_loops(implementation: type, shapes: Shapes) -> None:
    value, locations, weights = problem(shapes)
    torch.testing.assert_close(
        implementation(value, shapes, locations, weights), slow(value, shapes, locations, weights)
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_equal_finite_differences(implementation: type) -> None:
    shapes = [(3, 4), (2, 1)]
    inputs = [one.requires_grad_() for one in problem(shapes, seed=1)]
    assert torch.autograd.gradcheck(lambda v, x, w: implementation(v, shapes, x, w), inputs)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_borders_and_cell_centres(implementation: type) -> None:
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    places = [
        (0.25, 0.25),
        (0.75, 0.75),
        (0.5, 0.5),
        (0.0, 0.25),
        (1.0, 1.0),
        (1.25, 0.5),
        (-0.25, 0.5),
        (9, 9),
    ]
    locations = torch.tensor(places).view(1, 8, 1, 1, 1, 2)
    found = implementation(value, [(2, 2)], locations, torch.ones(1, 8, 1, 1, 1))
    assert found.flatten().tolist() == [1.0, 4.0, 2.5, 0.5, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("implementation", [sample_grid, sample_bags])
@pytest.mark.parametrize("empty", [(0, 4), (3, 0)])
def test_an_empty_level_adds_nothing(implementation: type, empty: tuple[int, int]) -> None:
    value, locations, weights = problem([(3, 5), (1, 0)])
    levels = [(3, 5), empty]
    found = implementation(value, levels, locations, weights)
    torch.testing.assert_close(found, slow(value, levels, locations, weights))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_queries_the_result_is_empty(implementation: type) -> None:
    value = torch.randn(1, 4, 1, 2, requires_grad=True)
    found = implementation(value, [(2, 2)], torch.zeros(1, 0, 1, 1, 1, 2), torch.zeros(1, 0, 1, 1, 1))
    assert found.shape == (1, 0, 2)
    found.sum().backward()
    assert not bool(value.grad.any())


def test_nan_locations_give_nan_and_do_not_crash() -> None:
    value, locations, weights = problem([(3, 4)])
    locations[0, 0] = math.nan
    locations[1, 1, 0, 0, 0] = math.inf
    locations.requires_grad_()
    found = sample_bags(value, [(3, 4)], locations, weights)
    assert bool(found[0, 0].isnan().all())
    assert bool(found[0, 1:].isfinite().all())
    found.sum().backward()


def test_implementations_agree_in_float32_with_gradients() -> None:
    shapes = [(5, 7), (3, 4)]
    inputs = [one.float() for one in problem(shapes)]
    results = []
    for implementation in IMPLEMENTATIONS:
        leaves = [one.clone().requires_grad_() for one in inputs]
        out = implementation(leaves[0], shapes, leaves[1], leaves[2])
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for one, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_only_the_value_needs_a_gradient() -> None:
    shapes = [(3, 4)]
    value, locations, weights = problem(shapes)
    value.requires_grad_()
    (found,) = torch.autograd.grad(sample_bags(value, shapes, locations, weights).sum(), value)
    (expected,) = torch.autograd.grad(sample_grid(value, shapes, locations, weights).sum(), value)
    torch.testing.assert_close(found, expected)


def test_attention_starts_with_equal_weights_around_the_reference() -> None:
    attention = DeformableAttention(32, 4, 2, 3)
    assert not bool(attention.attention_weights(torch.randn(5, 32)).any())
    offsets = attention.sampling_offsets(torch.zeros(32)).view(4, 2, 3, 2)
    # Head 0 samples to the right, head 1 below; point k is k + 1 cells away.
    torch.testing.assert_close(offsets[0, 1], torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    torch.testing.assert_close(offsets[1, 0, 2], torch.tensor([0.0, 3.0]), atol=1e-6, rtol=0)


def test_attention_ignores_padded_cells() -> None:
    attention = DeformableAttention(32, 4, 1, 3)
    memory = torch.randn(1, 12, 32)
    keep = torch.ones(1, 12, 1, dtype=torch.bool)
    keep[0, 8:] = False
    query, references = torch.randn(1, 5, 32), torch.rand(1, 5, 1, 2)
    before = attention(query, references, memory, [(3, 4)], keep)
    memory[0, 8:] = 100.0
    assert torch.equal(before, attention(query, references, memory, [(3, 4)], keep))
    assert not torch.equal(before, attention(query, references, memory, [(3, 4)], None))


def test_attention_under_bfloat16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(32, 4, 2, 3)
    shapes = [(6, 6), (3, 3)]
    inputs = torch.randn(2, 5, 32), torch.rand(2, 5, 2, 2), torch.randn(2, 45, 32)
    exact = attention(*inputs, shapes, None)
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(*inputs, shapes, None)
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
