"""RoIAlign for training on CPUs: the product with a sparse matrix of weights, and with its transpose.

torchvision reads and adds the channels one by one, which took a fifth of a training step of the quickstart.
Here the channels of a cell of the map are contiguous.

Shape legend: B images, N RoIs, C channels, H x W cells of the map, K cells per side of a RoI.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import roi_align

SAMPLES = 2
"""Samples per side of a cell in RoIAlign."""


def align_rois(level: Tensor, rois: Tensor, cells: int, scale: float) -> Tensor:
    """Return (N, C, K, K): torchvision's `roi_align` with aligned=True and SAMPLES samples per side.

    level: (B, C, H, W) float32; rois: (N, 5) image and xyxy in pixels, without a gradient; cells: K; scale:
    cells of the map per pixel.
    """
    out: Tensor
    if level.device.type == "cpu" and level.requires_grad and not torch.compiler.is_compiling():
        out = _Align.apply(level, rois, cells, scale)
    else:
        out = roi_align(level, rois, (cells, cells), scale, SAMPLES, aligned=True)
    return out


class _Align(torch.autograd.Function):
    """Forward: `_weights` times the map. Backward: its transpose times the gradient."""

    @staticmethod
    def forward(ctx: Any, level: Tensor, rois: Tensor, cells: int, scale: float) -> Tensor:
        batch, channels, height, width = ctx.shape = level.shape
        ctx.weights = _weights(rois, (batch, height, width), cells, scale)
        table = level.permute(0, 2, 3, 1).reshape(-1, channels)
        read = torch.from_numpy(ctx.weights @ table.numpy())
        return read.view(-1, cells, cells, channels).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        batch, channels, height, width = ctx.shape
        by_cell = grad.permute(0, 2, 3, 1).reshape(-1, channels)
        summed = torch.from_numpy(ctx.weights.T @ by_cell.numpy()).view(batch, height, width, channels)
        return summed.permute(0, 3, 1, 2), None, None, None


def _weights(rois: Tensor, shape: tuple[int, int, int], cells: int, scale: float) -> sparse.csr_matrix:
    """Return how much each cell of the maps counts in each cell of the RoIs: (N * K * K, B * H * W), float32.

    A cell of a RoI is the mean of SAMPLES x SAMPLES samples, each of which reads four cells of the map.
    shape: B, H and W.
    """
    batch, height, width = shape
    x, x_share = _along(rois[:, 1], rois[:, 3], width, cells, scale)
    y, y_share = _along(rois[:, 2], rois[:, 4], height, cells, scale)
    image = rois[:, 0].long().view(-1, 1, 1) * (height * width)
    rows = (image + y * width)[:, :, None, :, None]  # (N, K, 1, 2 * SAMPLES, 1)
    places = rows + x[:, None, :, None, :]
    shares = y_share[:, :, None, :, None] * x_share[:, None, :, None, :]
    count = (2 * SAMPLES) ** 2
    ends = np.arange(0, places.numel() + 1, count, dtype=np.int32)
    values = (shares.reshape(-1).numpy(), places.reshape(-1).int().numpy(), ends)
    return sparse.csr_matrix(values, shape=(len(ends) - 1, batch * height * width))


def _along(first: Tensor, last: Tensor, size: int, cells: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return the cells of the map that are read along one axis, and their shares of a cell of the RoI.

    first, last: (N,), sides of the RoIs in pixels; size: cells of the map. Both are (N, K, 2 * SAMPLES),
    int64 and float32: the lower cells of the samples, then the upper ones. As in torchvision, a sample more
    than one cell outside the map reads nothing, and others are moved to the nearest cell.
    """
    start = first * scale - 0.5
    step = (last * scale - 0.5 - start) / cells
    sample = (torch.arange(cells * SAMPLES, dtype=first.dtype).view(cells, SAMPLES) + 0.5) / SAMPLES
    place = start.view(-1, 1, 1) + step.view(-1, 1, 1) * sample
    inside = (place >= -1) & (place <= size)
    place = place.clamp(0, size - 1)
    lower = place.nan_to_num(0).floor()
    upper_share = place - lower
    shares = torch.cat([1 - upper_share, upper_share], -1) * inside.repeat(1, 1, 2) / SAMPLES
    lower = lower.long()
    return torch.cat([lower, (lower + 1).clamp(max=size - 1)], -1), shares
