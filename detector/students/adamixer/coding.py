"""Boxes as centre, scale and ratio (docs/method/hd_ovd.md, eqs. 43 and 44), and relations between them.

A code is (x, y, z, rho): centre in pixels, z = log2 of the root of the area, rho = log2 of height / width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCALES = (-2.0, 14.0)
"""Range of z: sides from a quarter of a pixel to 16384, so that a diverged model stays finite."""
RATIOS = (-8.0, 8.0)
"""Range of rho."""
SMALLEST_SIDE = 0.25
"""Sides in pixels are at least this long when they are coded."""


def code(corners: Tensor) -> Tensor:
    """Return codes (..., 4) of xyxy boxes (..., 4) in pixels."""
    side = (corners[..., 2:] - corners[..., :2]).clamp(min=SMALLEST_SIDE)
    width, height = side.log2().unbind(-1)
    shape = torch.stack([(width + height) / 2, height - width], -1)
    return torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, shape], -1)


def sides(codes: Tensor) -> Tensor:
    """Return (..., 2), width and height in pixels of codes (eq. 43)."""
    z, rho = codes[..., 2], codes[..., 3]
    return torch.stack([z - rho / 2, z + rho / 2], -1).exp2()


def corners_of(codes: Tensor) -> Tensor:
    """Return xyxy boxes (..., 4) in pixels of codes (..., 4)."""
    half = sides(codes) / 2
    return torch.cat([codes[..., :2] - half, codes[..., :2] + half], -1)


def refined(codes: Tensor, change: Tensor) -> Tensor:
    """Return codes (..., 4) after a change (..., 4): the centre in units of 2^z, z and rho added (eq. 44)."""
    centre = codes[..., :2] + codes[..., 2:3].exp2() * change[..., :2]
    scale = (codes[..., 2] + change[..., 2]).clamp(*SCALES)
    ratio = (codes[..., 3] + change[..., 3]).clamp(*RATIOS)
    return torch.cat([centre, scale[..., None], ratio[..., None]], -1)


def sine_codes(codes: Tensor, hidden: int) -> Tensor:
    """Return sine encodings (..., hidden) of (x / 1000, y / 1000, z, rho), hidden / 4 channels each.

    Of each number c, alternately sin and cos of c / 10000^(2 floor(k / 2) / (hidden / 4)) for channel k.
    """
    width = hidden // 4
    plain = codes / codes.new_tensor([1000.0, 1000.0, 1.0, 1.0])
    powers = torch.arange(width, device=codes.device).div(2, rounding_mode="floor").to(codes.dtype)
    angle = plain[..., None] * (-math.log(10000.0) * 2 / width * powers).exp()
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-3)


def overlap_of_first(corners: Tensor) -> Tensor:
    """Return IoF (B, N, N): the share of box i that box j covers. corners: (B, N, 4) xyxy."""
    a, b = corners[:, :, None], corners[:, None]
    shared = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    area = (a[..., 2:] - a[..., :2]).prod(-1).clamp(min=1e-9)
    return shared.clamp(min=0).prod(-1) / area
