"""The core of deformable attention on CPUs: each row of the result is a weighted sum of rows of a table.

Shape legend: B images, Q queries, H heads, E width of a head, L levels, P points, S = sum of h*w over levels,
R = B*Q*H rows of the result, K = L*P samples of a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cckt.detector.students.deformable_detr.shapes import Shapes


def sample_bags(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute `sampling.sample` with embedding_bag: a row is a weighted sum of 4 K rows of a table of cells.

    grid_sample on a CPU reads the channels one by one; here the channels of a head are contiguous and are
    read once.
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
        rows, below, right, down, inside = _corners(
            table.shape[1], shapes, locations, inside=ctx.needs_input_grad[1]
        )
        shares = _shares(weights.reshape(-1, samples), right, down)
        index = torch.cat([rows, rows + heads, rows + below, rows + (below + heads)], -1)
        flat = table.view(-1, width)
        out = F.embedding_bag(index, flat, mode="sum", per_sample_weights=torch.cat(shares, -1))
        ctx.save_for_backward(table, weights, rows, index, right, down, *inside)
        ctx.shapes = shapes
        return out.view(batch, queries, heads * width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, weights, rows, index, right, down, *inside = ctx.saved_tensors
        batch, framed, heads, width = table.shape
        weigh = weights.reshape(rows.shape)
        grad = grad.reshape(-1, width)
        for_value = None
        if ctx.needs_input_grad[0]:
            folded = _scatter(grad, rows, _shares(weigh, right, down), (batch, framed, heads))
            for_value = _unframe(folded, ctx.shapes)
        # Dot products of the four corners with the gradient of their row.
        a, b, c, d = _dots(grad, table.view(-1, width), index).chunk(4, -1)
        upper, lower = torch.lerp(a, b, right), torch.lerp(c, d, right)
        for_weights = torch.lerp(upper, lower, down).view(weights.shape)
        if not inside:
            return for_value, None, for_weights, None
        across = torch.lerp(b.sub_(a), d.sub_(c), down).mul_(weigh)
        along = lower.sub_(upper).mul_(weigh)
        sides = zip(*ctx.shapes, strict=True)
        for slope, size, within in zip((along, across), sides, reversed(inside), strict=True):
            slope.mul_(_per_sample(size, slope, weights.shape[4])).mul_(within)
        return for_value, torch.stack([across, along], -1).view(*weights.shape, 2), for_weights, None


def value_gradient(grad: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of `sampling.sample` for its value, (B, S, H, E), on any device.

    The order of the sums is fixed, so the result is deterministic. grad: (B, Q, H * E).
    """
    batch, heads, samples = grad.shape[0], locations.shape[2], weights.shape[3] * weights.shape[4]
    width = grad.shape[2] // heads
    framed = sum((h + 2) * (w + 2) for h, w in shapes)
    rows, _, right, down, _ = _corners(framed, shapes, locations, inside=False)
    shares = _shares(weights.reshape(-1, samples), right, down)
    folded = _scatter(grad.reshape(-1, width), rows, shares, (batch, framed, heads))
    return _unframe(folded, shapes)


def _frame(value: Tensor, shapes: Shapes) -> Tensor:
    """Add a border of one zero cell to every level.

    (B, S, H, E) -> (B, S', H, E), where S' is the sum of (h + 2) * (w + 2).
    """
    batch, _, heads, width = value.shape
    levels = torch.split(value, [h * w for h, w in shapes], 1)
    framed = value.new_zeros((batch, sum((h + 2) * (w + 2) for h, w in shapes), heads, width))
    spaces = torch.split(framed, [(h + 2) * (w + 2) for h, w in shapes], 1)
    for level, space, (h, w) in zip(levels, spaces, shapes, strict=True):
        inner = space.view(batch, h + 2, w + 2, heads, width)[:, 1:-1, 1:-1]
        inner.copy_(level.reshape(batch, h, w, heads, width))
    return framed


def _unframe(corners: list[Tensor], shapes: Shapes) -> Tensor:
    """Add the gradients of the four corners of samples at their cells and remove the border: (B, S, H, E).

    corners: for each corner (B, H, S', E), stored at the upper left cell of its sample.
    """
    sizes = [(h + 2) * (w + 2) for h, w in shapes]
    levels = []
    for parts, (h, w) in zip(
        zip(*(torch.split(one, sizes, 2) for one in corners), strict=True), shapes, strict=True
    ):
        a, b, c, d = (part.unflatten(2, (h + 2, w + 2)) for part in parts)
        total = a[:, :, 1:-1, 1:-1] + b[:, :, 1:-1, :-2]
        total += c[:, :, :-2, 1:-1]
        total += d[:, :, :-2, :-2]
        levels.append(total.flatten(2, 3).transpose(1, 2))
    return torch.cat(levels, 1)


def _corners(
    framed: int, shapes: Shapes, locations: Tensor, inside: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Return the position of each sample in the table of `framed` cells per image.

    The table row of its upper left cell (R, K) int32; the number of rows to the cell below (K,) int32; the
    shares of the right and the lower cells (R, K); and, if `inside`, whether x and y have a gradient, both
    (R, K) bool.
    """
    batch, heads, points, at = locations.shape[0], locations.shape[2], locations.shape[4], locations.device
    samples = locations.shape[3] * points
    half, least = (torch.tensor(one, dtype=locations.dtype, device=at) for one in (-0.5, -1.0))
    cells, shares, within = [], [], []
    for axis, sides in enumerate(([w for _, w in shapes], [h for h, _ in shapes])):
        size = _per_sample(sides, locations, points)
        place = torch.addcmul(half, locations[..., axis].reshape(-1, samples), size)
        if inside:
            within.append((place > -1) & (place < size))
        place = torch.maximum(torch.minimum(place, size, out=place), least, out=place)
        # At the far edge the cell is the last one and the share is 1: only the border counts.
        cell = torch.minimum(place.floor(), size - 1)
        shares.append(place.sub_(cell))
        cells.append(cell)
    starts = accumulate([0, *((h + 2) * (w + 2) for h, w in shapes[:-1])])
    offset = [start + w + 3 for start, (_, w) in zip(starts, shapes, strict=True)]
    wide = _per_sample([w + 2 for _, w in shapes], locations, points)
    number = torch.addcmul(cells[0].add_(_per_sample(offset, locations, points)), cells[1], wide).int()
    number.clamp_(0, framed - 1)  # NaN must not read outside the table; its share stays NaN
    base = torch.arange(batch, dtype=torch.int32, device=at).view(-1, 1, 1) * (framed * heads)
    base = base + torch.arange(heads, dtype=torch.int32, device=at)
    number = number.mul_(heads).view(batch, -1, heads, samples).add_(base.unsqueeze(-1))
    return number.view(-1, samples), wide.int().mul_(heads), shares[0], shares[1], within


def _per_sample(values: Sequence[int], like: Tensor, points: int) -> Tensor:
    """Return a value of each level as one of each sample, (K,), with the dtype and device of `like`.

    The loops of a CPU run along the last dimension, which would be two long for pairs of x and y.
    """
    return torch.tensor(values, dtype=like.dtype, device=like.device).repeat_interleave(points)


def _shares(weights: Tensor, right: Tensor, down: Tensor) -> list[Tensor]:
    """Return the weights of the upper left, upper right, lower left and lower right cells, (R, K) each."""
    lower = weights * down
    upper = weights - lower
    upper_right, lower_right = upper * right, lower * right
    return [upper.sub_(upper_right), upper_right, lower.sub_(lower_right), lower_right]


def _dots(grad: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Return the dot products of grad[r] and table[index[r, k]], (R, 4 K), as a sampled matrix product."""
    rows, columns = index.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        places = torch.sparse_csr_tensor(
            torch.arange(0, rows * columns + 1, columns, dtype=index.dtype),
            index.view(-1),
            grad.new_zeros(rows * columns),
            (rows, table.shape[0]),
            check_invariants=False,  # they forbid a column twice in a row, which does no harm here
        )
    torch.sparse.sampled_addmm(places, grad, table.t(), beta=0.0, out=places)
    dots: Tensor = places.values()
    return dots.view(rows, columns)


def _scatter(grad: Tensor, rows: Tensor, shares: list[Tensor], table: tuple[int, int, int]) -> list[Tensor]:
    """Return, per corner, (B, H, S', E): at each cell the sum of share * grad of the samples that start
    there.

    A sample starts at its upper left cell. Samples of a head of an image touch no other cells, so each of
    these groups is sorted for itself, and its gradients are laid together. One sort serves all four corners.
    table: B, S' and H.
    """
    batch, framed, heads = table
    queries, samples = rows.shape[0] // (batch * heads), rows.shape[1]
    groups, width, at = batch * heads, grad.shape[1], rows.device
    number = torch.arange(groups, dtype=torch.int32, device=at)[:, None]
    image, head = number.div(heads, rounding_mode="floor"), number % heads
    split = rows.view(batch, queries, heads, samples).transpose(1, 2).reshape(groups, queries * samples)
    cell = (split - (image * (framed * heads) + head)).div_(heads, rounding_mode="floor")
    counts = torch.bincount((cell + number * framed).view(-1), minlength=groups * framed)
    query, sample = _by_cell(cell, framed, samples)
    place = (query * heads + (image * (queries * heads) + head)).mul_(samples).add_(sample).view(-1)
    if at.type == "cpu":  # torch would gather element by element
        index = place.numpy().astype(np.intp)
        ordered = [torch.from_numpy(np.take(share.reshape(-1).numpy(), index)) for share in shares]
    else:
        ordered = [share.reshape(-1)[place] for share in shares]
    source = (query + number * queries).view(-1)
    by_head = grad.view(batch, queries, heads, width).transpose(1, 2).reshape(groups * queries, width)
    offsets = (counts.cumsum(0) - counts).to(source.dtype)
    return [
        F.embedding_bag(source, by_head, offsets, mode="sum", per_sample_weights=share).view(
            batch, heads, framed, width
        )
        for share in ordered
    ]


def _by_cell(cell: Tensor, cells: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return query and sample of each entry of a group, sorted by cell, stably: (groups, n) integers each.

    cell: (groups, n) int32, in 0 to cells - 1, of n / samples queries with `samples` entries each; it is
    modified. On a CPU cell, query and sample are bit fields of one integer: numpy sorts integers with vector
    instructions, several times as fast as torch sorts with indices, and 32 bits twice as fast as 64.
    """
    n, low = cell.shape[1], max(samples - 1, 0).bit_length()
    if cell.device.type != "cpu":
        order = cell.sort(dim=1, stable=True).indices
        query = order.div(samples, rounding_mode="floor")
        return query, order - query * samples
    bits = low + max(n // max(samples, 1) - 1, 0).bit_length()
    small = bits + cells.bit_length() < 32
    assert small or cells < 1 << (63 - bits), f"expected fewer than 2^{63 - bits} cells, found {cells}"
    packed = cell if small else cell.long()
    query = torch.arange(n // max(samples, 1), dtype=packed.dtype)[:, None].bitwise_left_shift(low)
    fields = (query + torch.arange(samples, dtype=packed.dtype)).view(-1)
    packed = packed.bitwise_left_shift_(bits).add_(fields)
    packed.numpy().sort(axis=1)
    sample = packed.bitwise_and((1 << low) - 1)
    return packed.bitwise_and_((1 << bits) - 1).bitwise_right_shift_(low), sample
