"""The core of deformable attention by gathering rows of a table, for graphs without the operator GridSample.

Positions are computed in integers, so that a graph in half precision gathers the same rows. It is slower than
the other implementations and only exported.

Shape legend: B images, Q queries, H heads, E width of a head, L levels, P points, S = sum of h*w over levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_gather(value: Tensor, sides: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute `sampling.sample`; sides: (L, 2) float, width and height of each level, at least 1."""
    batch, cells, heads, width = value.shape
    queries = locations.shape[1]
    across, down = sides[:, :1], sides[:, 1:]  # (L, 1)
    columns = across.to(torch.int64)
    areas = columns * down.to(torch.int64)
    first = [torch.zeros_like(areas[:1])]
    for level in range(sides.shape[0] - 1):
        first.append(first[-1] + areas[level : level + 1])
    starts = torch.cat(first)  # (L, 1)
    x, y = locations[..., 0] * across - 0.5, locations[..., 1] * down - 0.5  # (B, Q, H, L, P)
    left, top = x.floor(), y.floor()
    right_share, lower_share = x - left, y - top
    table = value.reshape(batch * cells * heads, width)
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1) * cells
    head = torch.arange(heads, device=value.device).view(-1, 1, 1)
    total = value.new_zeros((batch, queries, heads, width))
    for column, row, share in _corners(left, top, right_share, lower_share):
        inside = (column >= 0) & (column < across) & (row >= 0) & (row < down)
        cell = _within(row, down) * columns + _within(column, across)
        places = (image + starts + cell) * heads + head
        read = F.embedding(places, table)  # (B, Q, H, L, P, E)
        scale = (share * weights * inside.to(weights.dtype)).unsqueeze(-1)
        total = total + (read * scale).sum((-3, -2))
    return total.reshape(batch, queries, heads * width)


def _corners(
    left: Tensor, top: Tensor, right: Tensor, lower: Tensor
) -> Sequence[tuple[Tensor, Tensor, Tensor]]:
    """Return column, row and share of the four cells around each sample."""
    return (
        (left, top, (1 - right) * (1 - lower)),
        (left + 1, top, right * (1 - lower)),
        (left, top + 1, (1 - right) * lower),
        (left + 1, top + 1, right * lower),
    )


def _within(position: Tensor, side: Tensor) -> Tensor:
    """Return positions moved to the nearest cell of a level, int64."""
    return torch.minimum(position.clamp(min=0), side - 1).to(torch.int64)
