"""Cases of the Triton kernel, run in a separate process under the interpreter, or on a GPU.

python -m tests.detector.students.deformable_detr.triton_cases DEVICE
prints {case: "" or its traceback} as one line of JSON.
The interpreter must be enabled (TRITON_INTERPRET=1) before triton is imported.
"""

from __future__ import annotations

import json
import math
import sys
import traceback

import torch
from torch import Tensor

from cckt.detector.students.deformable_detr import sampling
from cckt.detector.students.deformable_detr.attention import DeformableAttention
from cckt.detector.students.deformable_detr.sampling import Shapes, sample_grid
from cckt.detector.students.deformable_detr.sampling_triton import sample_triton

ODD = [(5, 7), (1, 3), (4, 1)]


def problem(
    shapes: Shapes, queries: int = 5, heads: int = 2, width: int = 3, points: int = 2, seed: int = 0
) -> list[Tensor]:
    """Value, locations from far outside to far inside, and weights; float32."""
    generator = torch.Generator().manual_seed(seed)
    cells, levels = sum(h * w for h, w in shapes), len(shapes)
    return [
        torch.randn(2, cells, heads, width, generator=generator),
        torch.rand(2, queries, heads, levels, points, 2, generator=generator) * 2 - 0.5,
        torch.randn(2, queries, heads, levels, points, generator=generator),
    ]


def results(implementation: object, shapes: Shapes, inputs: list[Tensor], device: str) -> list[Tensor]:
    """Return the result and the three gradients of a fixed weighted sum of it."""
    leaves = [one.to(device).requires_grad_() for one in inputs]
    out = implementation(leaves[0], shapes, leaves[1], leaves[2])  # type: ignore[operator]
    slope = torch.linspace(-1, 2, out.numel(), device=out.device).view(out.shape).to(out.dtype)
    return [
        one.detach().cpu() for one in (out, *torch.autograd.grad(out, leaves, slope, materialize_grads=True))
    ]


def compare(shapes: Shapes, inputs: list[Tensor], device: str, tolerance: float = 1e-5) -> None:
    """Compare the kernel with grid_sample in float64."""
    found = results(sample_triton, shapes, inputs, device)
    expected = results(sample_grid, shapes, [one.double() for one in inputs], "cpu")
    for one, other, given in zip(found, expected, [inputs[0], *inputs], strict=True):
        assert one.dtype == given.dtype
        torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=tolerance)


def case_one_cell(device: str) -> None:
    compare([(1, 1)], problem([(1, 1)]), device)


def case_odd_sizes_and_locations_outside(device: str) -> None:
    compare(ODD, problem(ODD), device)


def case_more_rows_and_channels_than_a_tile(device: str) -> None:
    compare([(6, 5)], problem([(6, 5)], queries=70, heads=3, width=20, points=3), device)
    compare([(2, 2)], problem([(2, 2)], queries=2, heads=1, width=1030, points=1), device, 1e-4)


def case_eight_levels(device: str) -> None:
    shapes = [(1, 2), (2, 1), (3, 1), (1, 4), (2, 2), (1, 1), (2, 3), (3, 3)]
    compare(shapes, problem(shapes, points=1), device)


def case_empty_levels(device: str) -> None:
    shapes = [(0, 4), (3, 2), (0, 0), (5, 0)]
    compare(shapes, problem(shapes), device)
    compare([(0, 0)], problem([(0, 0)]), device)


def case_no_queries(device: str) -> None:
    compare([(2, 3)], problem([(2, 3)], queries=0), device)


def case_borders(device: str) -> None:
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
    inputs = [value, locations, torch.ones(1, 8, 1, 1, 1)]
    found = results(sample_triton, [(2, 2)], inputs, device)
    assert found[0].flatten().tolist() == [1.0, 4.0, 2.5, 0.5, 1.0, 0.0, 0.0, 0.0]
    assert not bool(found[2][0, 5:].any()), "locations far outside have no gradient"


def case_nan(device: str) -> None:
    inputs = problem([(3, 4)])
    inputs[1][0, 0] = math.nan
    inputs[1][1, 1, 0, 0, 0] = math.inf
    inputs[1][1, 2, 0, 0, 0] = -1e30
    found, for_value, *_ = results(sample_triton, [(3, 4)], inputs, device)
    assert bool(found[0, 0].isnan().all())
    assert bool(found[0, 1:].isfinite().all())
    assert bool(found[1].isfinite().all())
    assert not bool(for_value[1].isnan().any())


def case_half_precision_values_are_summed_in_float32(device: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        value, locations, weights = problem(ODD)
        # All of one sign: sums in half precision would lose more than the final rounding.
        exact = [value.abs().to(dtype), locations, weights.abs()]
        found = results(sample_triton, ODD, exact, device)
        assert [one.dtype for one in found] == [dtype, dtype, torch.float32, torch.float32]
        expected = results(sample_grid, ODD, [one.double() for one in exact], "cpu")
        for one, other in zip(found[:2], expected[:2], strict=True):
            torch.testing.assert_close(one, other.to(dtype), atol=1e-2, rtol=torch.finfo(dtype).eps)
        # In float64 the incoming gradient is not rounded to half precision.
        torch.testing.assert_close(found[3].double(), expected[3], atol=0.05, rtol=0.02)


def case_all_tensors_in_half_precision(device: str) -> None:
    inputs = [one.to(torch.bfloat16) for one in problem(ODD)]
    found = results(sample_triton, ODD, inputs, device)
    expected = results(sample_grid, ODD, [one.double() for one in inputs], "cpu")
    torch.testing.assert_close(found[0].double(), expected[0], atol=0.02, rtol=0.02)
    assert [one.dtype for one in found] == [torch.bfloat16] * 4


def case_gradients_by_finite_differences(device: str) -> None:
    shapes = [(3, 4), (2, 1)]
    inputs = problem(shapes, queries=2, heads=1, width=2, seed=3)
    slope = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(1))

    def loss(values: list[Tensor]) -> float:
        out = sample_triton(values[0].to(device), shapes, *(one.to(device) for one in values[1:]))
        return float((out.cpu().double() * slope).sum())

    leaves = [one.to(device).requires_grad_() for one in inputs]
    out = sample_triton(leaves[0], shapes, leaves[1], leaves[2])
    gradients = torch.autograd.grad(out, leaves, slope.to(device))
    step = 2e-3
    # Locations within a step of the edge of a cell are skipped: the gradient changes there.
    cells = torch.tensor([[w, h] for h, w in shapes]).view(-1, 1, 2)
    place = inputs[1] * cells - 0.5
    far = ((place - place.round()).abs() > 2 * step * cells).flatten()
    for which, gradient in enumerate(gradients):
        checked = 0
        for entry in range(0, gradient.numel(), 3):
            if which == 1 and not far[entry]:
                continue
            ends = []
            for side in (1, -1):
                moved = [one.clone() for one in inputs]
                moved[which].view(-1)[entry] += side * step
                ends.append(loss(moved))
            slow = (ends[0] - ends[1]) / (2 * step)
            assert abs(slow - float(gradient.flatten()[entry])) < 5e-3, (which, entry)
            checked += 1
        assert checked > 5


def case_deterministic_order(device: str) -> None:
    inputs = problem(ODD, queries=40)
    torch.use_deterministic_algorithms(True)
    try:
        compare(ODD, inputs, device)
        first, second = (results(sample_triton, ODD, inputs, device) for _ in range(2))
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def case_strided_inputs(device: str) -> None:
    value, locations, weights = problem(ODD)
    turned = value.transpose(1, 2).contiguous().transpose(1, 2), weights.mT.contiguous().mT
    plain = sample_triton(value.to(device), ODD, locations.to(device), weights.to(device))
    found = sample_triton(turned[0].to(device), ODD, locations.to(device), turned[1].to(device))
    assert torch.equal(found, plain)


def case_operator_rules(device: str) -> None:
    """Run torch's checks of schema, fake implementation, autograd and tracing."""
    leaves = [one.to(device).requires_grad_() for one in problem(ODD)]
    sides = [side for one in ODD for side in one]
    torch.library.opcheck(torch.ops.cckt.sample.default, (*leaves, sides))


def case_compiles_without_graph_breaks(device: str) -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(32, 4, 2, 2).to(device)
    shapes = [(3, 4), (2, 2)]
    query, references = torch.randn(1, 5, 32).to(device), torch.rand(1, 5, 2, 2).to(device)
    memory = torch.randn(1, 16, 32).to(device)
    before, sampling._use_triton = sampling._use_triton, lambda *_, **__: True
    try:
        compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
        found = compiled(query, references, memory, shapes, None)
        found.square().sum().backward()
        gradient = attention.sampling_offsets.weight.grad
        attention.zero_grad()
        plain = attention(query, references, memory, shapes, None)
    finally:
        sampling._use_triton = before
    plain.square().sum().backward()
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradient, attention.sampling_offsets.weight.grad)
    torch.testing.assert_close(attention(query, references, memory, shapes, None), plain)


CASES = {name.removeprefix("case_"): case for name, case in list(globals().items()) if name[:5] == "case_"}


def main(device: str) -> None:
    torch.set_num_threads(1)
    found = {}
    for name, case in CASES.items():
        try:
            case(device)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
