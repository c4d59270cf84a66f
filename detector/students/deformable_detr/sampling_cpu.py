"""The core of deformable attention on CPUs: each result is a weighted bag of rows of one table of cells.

Shape legend: B photos, Q queries, H heads, E width of a head, L levels, P points, S = sum of h*w over levels,
R = B*Q*H rows of the result, K = L*P samples of a row.
"""

from __future__ import annotations

import warnings
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cckt.detector.students.deformable_detr.shapes import Shapes


def sample_bags(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample` as bags of embeddings: a row of the result is a weighted sum of 4 K rows of a table of cells.

    grid_sample on a CPU walks the channels one by one; here a head's channels lie together and are read once.
    """
    out: Tensor = _Bags.apply(value, locations, weights, shapes)
    return out


class _Bags(torch.autograd.Function):
    """Forward: one embedding_bag. Backward: dot products for the weights, sorted bags for the value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        batch, _, heads, width = value.shape
        queries, samples = locations.shape[1], weights.shape[3] * weights.shape[4]
        table = _frame(value, shapes)  # (B, S', H, E)
        rows, below, right, down, inside = _corners(table.shape[1], shapes, locations)
        shares = _shares(weights.reshape(-1, samples), right, down)
        index = torch.cat([rows, rows + heads, rows + below, rows + (below + heads)], -1)
        flat = table.view(-1, width)
        out = F.embedding_bag(index, flat, mode="sum", per_sample_weights=torch.cat(shares, -1))
        ctx.save_for_backward(table, weights, rows, index, right, down, inside)
        ctx.shapes = shapes
        return out.view(batch, queries, heads * width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, weights, rows, index, right, down, inside = ctx.saved_tensors
        batch, framed, heads, width = table.shape
        weigh = weights.reshape(rows.shape)
        grad = grad.reshape(-1, width)
        for_value = None
        if ctx.needs_input_grad[0]:
            folded = _scatter(grad, rows, _shares(weigh, right, down), batch * framed * heads)
            for_value = _unframe([one.view(table.shape) for one in folded], ctx.shapes)
        a, b, c, d = _dots(grad, table.view(-1, width), index).chunk(4, -1)  # the four corners' values . grad
        upper, lower = torch.lerp(a, b, right), torch.lerp(c, d, right)
        for_weights = torch.lerp(upper, lower, down).view(weights.shape)
        across = torch.lerp(b.sub_(a), d.sub_(c), down).mul_(weigh)
        along = lower.sub_(upper).mul_(weigh)
        sizes = torch.tensor([[w, h] for h, w in ctx.shapes], dtype=grad.dtype).view(-1, 1, 2)
        both = torch.stack([across, along], -1).view(*weights.shape, 2)
        return for_value, both.mul_(sizes).mul_(inside), for_weights, None


def value_gradient(grad: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The gradient of `sample` for its value, on any device, in an order of sums that never changes.

    grad: (B, Q, H * E). Returns (B, S, H, E).
    """
    batch, heads, samples = grad.shape[0], locations.shape[2], weights.shape[3] * weights.shape[4]
    width = grad.shape[2] // heads
    framed = sum((h + 2) * (w + 2) for h, w in shapes)
    rows, _, right, down, _ = _corners(framed, shapes, locations)
    shares = _shares(weights.reshape(-1, samples), right, down)
    folded = _scatter(grad.reshape(-1, width), rows, shares, batch * framed * heads)
    return _unframe([one.view(batch, framed, heads, width) for one in folded], shapes)


def _frame(value: Tensor, shapes: Shapes) -> Tensor:
    """A frame of zero cells round every level: (B, S, H, E) -> (B, S', H, E), S' sums (h + 2) * (w + 2)."""
    batch, _, heads, width = value.shape
    levels = torch.split(value, [h * w for h, w in shapes], 1)
    framed = value.new_zeros((batch, sum((h + 2) * (w + 2) for h, w in shapes), heads, width))
    spaces = torch.split(framed, [(h + 2) * (w + 2) for h, w in shapes], 1)
    for level, space, (h, w) in zip(levels, spaces, shapes, strict=True):
        space.view(batch, h + 2, w + 2, -1)[:, 1:-1, 1:-1] = level.reshape(batch, h, w, -1)
    return framed


def _unframe(corners: list[Tensor], shapes: Shapes) -> Tensor:
    """Four gradients, each told at the upper left cell of a sample, added up at their cells: (B, S, H, E)."""
    batch, _, heads, width = corners[0].shape
    sizes = [(h + 2) * (w + 2) for h, w in shapes]
    levels = []
    for parts, (h, w) in zip(
        zip(*(torch.split(one, sizes, 1) for one in corners), strict=True), shapes, strict=True
    ):
        a, b, c, d = (part.view(batch, h + 2, w + 2, heads, width) for part in parts)
        total = a[:, 1:-1, 1:-1] + b[:, 1:-1, :-2]
        total += c[:, :-2, 1:-1]
        total += d[:, :-2, :-2]
        levels.append(total.view(batch, h * w, heads, width))
    return torch.cat(levels, 1)


def _corners(framed: int, shapes: Shapes, locations: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where each sample lies in the table of `framed` cells a photo.

    Returns the table row of its upper left cell (R, K) int32, the rows to the cell below (K,) int32, the
    shares towards right and down (R, K), and whether x and y move the result (B, Q, H, L, P, 2) bool.
    """
    batch, heads, at = locations.shape[0], locations.shape[2], locations.device
    size = torch.tensor([[w, h] for h, w in shapes], dtype=locations.dtype, device=at).view(-1, 1, 2)
    starts = torch.tensor(list(accumulate([0, *((h + 2) * (w + 2) for h, w in shapes)]))[:-1], device=at)
    wide = torch.tensor([w + 2 for _, w in shapes], device=at)
    half, least = (torch.tensor(one, dtype=locations.dtype, device=at) for one in (-0.5, -1.0))
    place = torch.addcmul(half, locations, size)
    inside = (place > -1) & (place < size)
    place = torch.maximum(torch.minimum(place, size, out=place), least, out=place)
    # At the far edge the cell is the last one and the share is 1: all of it on the frame.
    cell = torch.minimum(place.floor(), size - 1)
    share = place.sub_(cell)
    offset = (starts + wide + 1).to(cell.dtype).view(-1, 1)
    number = torch.addcmul(cell[..., 0] + offset, cell[..., 1], wide.to(cell.dtype).view(-1, 1)).int()
    number.clamp_(0, framed - 1)  # NaN has no cell, but must not read outside; its share stays NaN
    base = torch.arange(batch, dtype=torch.int32, device=at).view(-1, 1, 1, 1, 1) * (framed * heads)
    base = base + torch.arange(heads, dtype=torch.int32, device=at).view(-1, 1, 1)
    rows = number.mul_(heads).add_(base)
    samples = rows.shape[3] * rows.shape[4]
    below = (wide * heads).int()[:, None].expand(-1, rows.shape[4]).reshape(samples)
    right, down = share[..., 0].reshape(-1, samples), share[..., 1].reshape(-1, samples)
    return rows.view(-1, samples), below, right, down, inside


def _shares(weights: Tensor, right: Tensor, down: Tensor) -> list[Tensor]:
    """Weights of the upper left, upper right, lower left and lower right cells, (R, K) each."""
    lower = weights * down
    upper = weights - lower
    upper_right, lower_right = upper * right, lower * right
    return [upper.sub_(upper_right), upper_right, lower.sub_(lower_right), lower_right]


def _dots(grad: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """grad[r] . table[index[r, k]] for all r, k: (R, 4 K). A product at given places of a sparse matrix."""
    rows, columns = index.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        places = torch.sparse_csr_tensor(
            torch.arange(0, rows * columns + 1, columns, dtype=index.dtype),
            index.view(-1),
            grad.new_zeros(rows * columns),
            (rows, table.shape[0]),
            check_invariants=False,  # they forbid a column twice in a row, which is harmless here
        )
    torch.sparse.sampled_addmm(places, grad, table.t(), beta=0.0, out=places)
    dots: Tensor = places.values()
    return dots.view(rows, columns)


def _scatter(grad: Tensor, rows: Tensor, shares: list[Tensor], cells: int) -> list[Tensor]:
    """For each corner, (cells, E): the sum of share * grad over the samples whose upper left cell it is.

    A bag of rows of `grad` for each cell; one sort serves all four corners.
    """
    offsets, order = _by_cell(rows.view(-1), cells)
    source = order.div(rows.shape[1], rounding_mode="floor")
    # The four shares of a sample lie together and move as one: a walk over the samples, not four.
    four = torch.stack([share.reshape(-1) for share in shares], -1)
    if four.device.type == "cpu":  # torch would move the numbers one by one
        four = torch.from_numpy(np.take(four.numpy(), order.numpy(), axis=0))
    else:
        four = four[order]
    return [
        F.embedding_bag(source, grad, offsets, mode="sum", per_sample_weights=share)
        for share in four.t().contiguous()
    ]


def _by_cell(keys: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Samples in the order of their cells, first come first: where each cell's begin (cells,), and who (n,).

    keys: (n,) int32 cells. On a CPU a key and its place are one 64-bit number: numpy sorts plain numbers with
    vector instructions, several times as fast as torch sorts with places.
    """
    if keys.device.type == "cpu":
        bits = max(keys.shape[0], 1).bit_length()
        assert cells < 1 << (63 - bits), f"{cells} cells"
        packed = keys.long().bitwise_left_shift_(bits).add_(torch.arange(keys.shape[0]))
        packed.numpy().sort()
        order = packed.bitwise_and((1 << bits) - 1)
    else:
        order = keys.sort(stable=True).indices
    counts = torch.bincount(keys, minlength=cells)
    return counts.cumsum(0) - counts, order
