"""Positions: sine encodings of encoder cells, centres of cells, inverse sigmoid.

Shape legend: B images, S = sum of h*w over levels, L levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cckt.detector.students.deformable_detr.shapes import Shapes


def sine_positions(keep: Tensor, hidden: int) -> Tensor:
    """Return sine encodings (B, h * w, hidden) of the cells' positions, relative to the unpadded part.

    keep: (B, h, w) float, 1 inside the image and 0 in the padding. The first half of the channels encodes y,
    the second x.
    """
    half = hidden // 2
    powers = torch.arange(half, device=keep.device).div(2, rounding_mode="floor").to(keep.dtype)
    period = 10000 ** (2 * powers / half)
    parts = []
    for axis in (1, 2):
        place = keep.cumsum(axis)
        total = place.narrow(axis, place.shape[axis] - 1, 1)
        angle = ((place - 0.5) / (total + 1e-6) * (2 * math.pi))[..., None] / period
        parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2))
    return torch.cat(parts, dim=-1).flatten(1, 2)


def cell_centres(shapes: Shapes, ratios: Tensor) -> Tensor:
    """Return the encoder's reference points (B, S, L, 2): the centre of each cell, as x, y, on every level.

    ratios: (B, L, 2) unpadded share of each level, as x, y. Points are normalised to the padded level.
    """
    centres = []
    for level, (height, width) in enumerate(shapes):
        y, x = torch.meshgrid(
            (torch.arange(height, device=ratios.device, dtype=ratios.dtype) + 0.5) / height,
            (torch.arange(width, device=ratios.device, dtype=ratios.dtype) + 0.5) / width,
            indexing="ij",
        )
        centres.append(torch.stack([x, y], -1).view(1, -1, 2) / ratios[:, None, level])
    return torch.cat(centres, 1)[:, :, None] * ratios[:, None]


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return log(x / (1 - x)), finite for x in [0, 1]: numerator and denominator are at least `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
