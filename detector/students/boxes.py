"""Geometry of cxcywh boxes, normalised to the unpadded image, for losses and matching."""

from __future__ import annotations

import torch
from torch import Tensor


def to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) cxcywh boxes to xyxy."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the GIoU (Rezatofighi et al., 2019) of cxcywh boxes; (..., 4) and (..., 4) broadcast to (...).

    Boxes without area give finite values.
    """
    tiny = 1e-9
    a, b = to_xyxy(a), to_xyxy(b)
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    shared, hull = inner.prod(-1), outer.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return shared / (union + tiny) - (hull - union) / (hull + tiny)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of cxcywh boxes; (..., 4) and (..., 4) broadcast to (...). Boxes without area give 0."""
    a, b = to_xyxy(a), to_xyxy(b)
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = inner.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return shared / (union + 1e-9)
