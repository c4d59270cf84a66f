"""The core of deformable attention as one fused Triton kernel for GPUs, forward and backward.

Each program computes a few rows of the result: it reads the four cells around every sample and sums them,
weighted, in float32, without intermediate results in memory. The backward pass reads the same cells once and
computes all three gradients. The gradient of a cell is a sum over many rows: atomic additions in float32,
whose order, and so the last bits, vary from run to run; or, with torch.use_deterministic_algorithms(True), a
sort by cell (`sampling_cpu.value_gradient`), which is slower.

`torch.ops.cckt.sample` is a custom operator, so torch.compile has no graph break. This module is imported
only where the kernel is used, because Triton comes only with CUDA builds of torch.

Shape legend: as in `sampling.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cckt.detector.students.deformable_detr.sampling_cpu import value_gradient
from cckt.detector.students.deformable_detr.shapes import Shapes

MOST_LEVELS = 8
"""Largest number of levels. Their sizes are arguments of the kernel: new ones need no compilation."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Allowed dtypes of values, locations and weights, which may differ from each other."""

TILE = 1024
"""Elements of the result per program: rows times channels of a head."""

SCALARS = ["rows", "rows_per_image", "cells", *(f"{s}{level}" for level in range(MOST_LEVELS) for s in "hw")]
"""Arguments that do not specialise the kernel: new values need no compilation."""


def sample_triton(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute `sampling.sample` with the kernel.

    Tensors have any of DTYPES, also mixed; the result has the dtype of `value`. They are on a GPU, or on any
    device under Triton's interpreter. Use float32 locations: bfloat16 resolves half a cell only up to 128
    cells.
    """
    out: Tensor = torch.ops.cckt.sample(value, locations, weights, [side for one in shapes for side in one])
    return out


@torch.library.custom_op("cckt::sample", mutates_args=())
def _sample(value: Tensor, locations: Tensor, weights: Tensor, sides: list[int]) -> Tensor:
    batch, cells, heads, width = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    out = value.new_empty((batch, queries, heads * width))
    if out.numel():
        rows = batch * queries * heads
        block = _block(width)
        _forward[(triton.cdiv(rows, block),)](
            value.contiguous(),
            locations.contiguous(),
            weights.contiguous(),
            out,
            rows,
            queries * heads,
            cells,
            *_padded(sides),
            HEADS=heads,
            WIDTH=width,
            LEVELS=levels,
            POINTS=points,
            BLOCK=block,
            CHANNELS=triton.next_power_of_2(width),
        )
    return out


@torch.library.custom_op("cckt::sample_backward", mutates_args=())
def _sample_backward(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sides: list[int], ordered: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, cells, heads, width = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    locations, weights, grad = locations.contiguous(), weights.contiguous(), grad.contiguous()
    for_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
    for_locations, for_weights = torch.empty_like(locations), torch.empty_like(weights)
    if grad.numel():
        rows = batch * queries * heads
        block = _block(width)
        _backward[(triton.cdiv(rows, block),)](
            grad,
            value.contiguous(),
            locations,
            weights,
            for_value,
            for_locations,
            for_weights,
            rows,
            queries * heads,
            cells,
            *_padded(sides),
            HEADS=heads,
            WIDTH=width,
            LEVELS=levels,
            POINTS=points,
            BLOCK=block,
            CHANNELS=triton.next_power_of_2(width),
            ATOMIC=not ordered,
        )
        if ordered:
            shapes = list(zip(sides[::2], sides[1::2], strict=True))
            for_value = value_gradient(grad.float(), shapes, locations.float(), weights.float())
    return for_value.to(value.dtype), for_locations, for_weights


@_sample.register_fake
def _(value: Tensor, locations: Tensor, weights: Tensor, sides: list[int]) -> Tensor:
    batch, _, heads, width = value.shape
    return value.new_empty((batch, locations.shape[1], heads * width))


@_sample_backward.register_fake
def _(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sides: list[int], ordered: bool
) -> tuple[Tensor, Tensor, Tensor]:
    whole = torch.contiguous_format
    return (
        torch.empty_like(value, memory_format=whole),
        torch.empty_like(locations, memory_format=whole),
        torch.empty_like(weights, memory_format=whole),
    )


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, list[int]], output: Tensor) -> None:
    value, locations, weights, sides = inputs
    ctx.save_for_backward(value, locations, weights)
    ctx.sides = sides


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    ordered = torch.are_deterministic_algorithms_enabled()
    return *torch.ops.cckt.sample_backward(grad, *ctx.saved_tensors, ctx.sides, ordered), None


_sample.register_autograd(_gradients, setup_context=_keep)


def _block(width: int) -> int:
    return max(1, TILE // int(triton.next_power_of_2(width)))


def _padded(sides: list[int]) -> list[int]:
    assert len(sides) <= 2 * MOST_LEVELS, f"expected at most {MOST_LEVELS} levels, found {len(sides) // 2}"
    return [*sides, *[0] * (2 * MOST_LEVELS - len(sides))]


@triton.jit  # type: ignore[untyped-decorator]
def _pick(level: tl.constexpr, a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]
    """Return the argument of a level; resolved at compile time."""
    if level == 0:  # noqa: SIM116 (Triton has no dictionaries)
        return a
    elif level == 1:
        return b
    elif level == 2:
        return c
    elif level == 3:
        return d
    elif level == 4:
        return e
    elif level == 5:
        return f
    elif level == 6:
        return g
    else:
        return h


@triton.jit
def _place(at, size):  # type: ignore[no-untyped-def]
    """Return the first cell, the share of the second, and whether the coordinate has a gradient (`moves`).

    at: coordinate in [0, 1]; size: cells of the level along it. Cells are -1..size; the second cell is the
    next one. Outside the level no share depends on the coordinate. NaN gives share NaN, which shows in the
    result.
    """
    place = at * size - 0.5
    moves = (place > -1.0) & (place < size)
    place = tl.where(place <= -1.0, -1.0, place)
    place = tl.where(place >= size, size * 1.0, place)
    lower = tl.floor(place)
    share = place - lower
    cell = tl.where(place == place, lower, 0.0).to(tl.int32)
    return cell, share, moves


@triton.jit(do_not_specialize=SCALARS)  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    value, locations, weights, out,
    rows, rows_per_image, cells,
    h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, h5, w5, h6, w6, h7, w7,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute out (B, Q, H, E); value (B, S, H, E), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = row < rows
    channel = tl.arange(0, CHANNELS)
    some = real[:, None] & (channel < WIDTH)[None, :]
    first = (row // rows_per_image) * cells * HEADS + row % HEADS  # table row of cell 0 of the image
    total = tl.zeros((BLOCK, CHANNELS), tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):
        height = _pick(level, h0, h1, h2, h3, h4, h5, h6, h7)
        breadth = _pick(level, w0, w1, w2, w3, w4, w5, w6, w7)
        for point in range(POINTS):
            sample = row * (LEVELS * POINTS) + level * POINTS + point
            x = tl.load(locations + 2 * sample, mask=real, other=0.0).to(tl.float32)
            y = tl.load(locations + 2 * sample + 1, mask=real, other=0.0).to(tl.float32)
            weight = tl.load(weights + sample, mask=real, other=0.0).to(tl.float32)
            column, right, _ = _place(x, breadth)
            line, down, _ = _place(y, height)
            for corner in tl.static_range(4):
                this_line, this_column = line + corner // 2, column + corner % 2
                inside = (this_line >= 0) & (this_line < height)
                inside = inside & (this_column >= 0) & (this_column < breadth)
                share = down if corner // 2 else 1.0 - down
                share = share * (right if corner % 2 else 1.0 - right)
                at = first + (start + this_line * breadth + this_column) * HEADS
                cell = tl.load(
                    value + at[:, None] * WIDTH + channel[None, :], mask=some & inside[:, None], other=0.0
                )
                total += (weight * share)[:, None] * cell.to(tl.float32)
        start += height * breadth
    where = out + row[:, None] * WIDTH + channel[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=some)


@triton.jit(do_not_specialize=SCALARS)  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    grad, value, locations, weights, for_value, for_locations, for_weights,
    rows, rows_per_image, cells,
    h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, h5, w5, h6, w6, h7, w7,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    """Compute the gradients from grad (B, Q, H, E), in the inputs' shapes; for_value: float32 zeros."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = row < rows
    channel = tl.arange(0, CHANNELS)
    some = real[:, None] & (channel < WIDTH)[None, :]
    first = (row // rows_per_image) * cells * HEADS + row % HEADS
    slope = tl.load(grad + row[:, None] * WIDTH + channel[None, :], mask=some, other=0.0).to(tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):
        height = _pick(level, h0, h1, h2, h3, h4, h5, h6, h7)
        breadth = _pick(level, w0, w1, w2, w3, w4, w5, w6, w7)
        for point in range(POINTS):
            sample = row * (LEVELS * POINTS) + level * POINTS + point
            x = tl.load(locations + 2 * sample, mask=real, other=0.0).to(tl.float32)
            y = tl.load(locations + 2 * sample + 1, mask=real, other=0.0).to(tl.float32)
            weight = tl.load(weights + sample, mask=real, other=0.0).to(tl.float32)
            column, right, moves_x = _place(x, breadth)
            line, down, moves_y = _place(y, height)
            by_weight = tl.zeros((BLOCK,), tl.float32)
            by_x = tl.zeros((BLOCK,), tl.float32)
            by_y = tl.zeros((BLOCK,), tl.float32)
            for corner in tl.static_range(4):
                this_line, this_column = line + corner // 2, column + corner % 2
                inside = (this_line >= 0) & (this_line < height)
                inside = inside & (this_column >= 0) & (this_column < breadth)
                share_y = down if corner // 2 else 1.0 - down
                share_x = right if corner % 2 else 1.0 - right
                at = first + (start + this_line * breadth + this_column) * HEADS
                here = at[:, None] * WIDTH + channel[None, :]
                seen = some & inside[:, None]
                cell = tl.load(value + here, mask=seen, other=0.0).to(tl.float32)
                dot = tl.sum(cell * slope, 1)
                by_weight += share_x * share_y * dot
                by_x += share_y * dot if corner % 2 else -share_y * dot
                by_y += share_x * dot if corner // 2 else -share_x * dot
                if ATOMIC:
                    part = (weight * share_x * share_y)[:, None] * slope
                    tl.atomic_add(for_value + here, part, mask=seen, sem="relaxed")
            by_x = tl.where(moves_x, by_x * weight * breadth, 0.0)
            by_y = tl.where(moves_y, by_y * weight * height, 0.0)
            kind = for_locations.dtype.element_ty
            tl.store(for_weights + sample, by_weight.to(for_weights.dtype.element_ty), mask=real)
            tl.store(for_locations + 2 * sample, by_x.to(kind), mask=real)
            tl.store(for_locations + 2 * sample + 1, by_y.to(kind), mask=real)
        start += height * breadth
