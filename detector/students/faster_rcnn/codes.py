"""Codes of boxes relative to reference boxes (Girshick et al., CVPR 2014), as in mmdetection."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROI_SCALES = (10.0, 10.0, 5.0, 5.0)
"""Factors on the codes of RoIs (deltas divided by 0.1, 0.1, 0.2, 0.2)."""
LARGEST_LOG = math.log(1000.0 / 16)
"""Largest logarithm of a growth of a side, as in torchvision."""
SMALLEST_SIDE = 1e-3
"""Sides in pixels are at least this long, so that logarithms are finite."""


def encode(boxes: Tensor, references: Tensor, scales: tuple[float, ...] = (1.0,) * 4) -> Tensor:
    """Return codes (..., 4) of xyxy boxes (..., 4): shift in sides of the reference, logarithm of growth."""
    (centre, side), (place, extent) = _centres(boxes), _centres(references)
    codes = torch.cat([(centre - place) / extent, (side / extent).log()], -1)
    return codes * codes.new_tensor(scales)


def decode(codes: Tensor, references: Tensor, scales: tuple[float, ...] = (1.0,) * 4) -> Tensor:
    """Return the xyxy boxes (..., 4) of codes (..., 4): the inverse of `encode`."""
    place, extent = _centres(references)
    plain = codes / codes.new_tensor(scales)
    centre = place + plain[..., :2] * extent
    half = extent * plain[..., 2:].clamp(max=LARGEST_LOG).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=SMALLEST_SIDE)
    return boxes[..., :2] + side / 2, side
