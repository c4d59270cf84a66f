"""Denoising queries: further queries of training that start at noised boxes (docs/method/cckt_det.md, section
9 and eq. 26).

After DN-DETR (Li et al., CVPR 2022) and DINO (Zhang et al., ICLR 2023), with text: a denoising query starts
at a noised copy of an annotated box, and its content is that of a learned query plus the projected text of a
concept. With the right text and a near box it is positive and must find the object; with wrong text or a far
box it is negative, that is background. Each query belongs to one object, so there is no matching.

Shape legend: B images, N queries, R groups, M most objects of an image (padded), C concepts, D width of the
teacher, Q = R * 2 * M denoising queries: in each group first the M positive, then the M negative ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cckt.detector.config.config import DenoiseConfig
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.deformable_detr.outputs import NoisedQueries
from cckt.detector.students.targets import PaddedTargets

SMALLEST = 1e-3
"""Smallest width and height of a noised box, as shares of the image."""


def group_count(configured: int, objects: int, queries: int) -> int:
    """Return the number of groups: `configured`, reduced until there are at most `queries` denoising queries.

    objects: M of the batch. At least one group remains.
    """
    return min(configured, max(1, queries // max(1, 2 * objects)))


def noised_queries(
    targets: PaddedTargets, text: Tensor, config: DenoiseConfig, queries: int
) -> NoisedQueries:
    """Draw the denoising queries of a batch from torch's generator; Q is 0 without objects.

    text: (C, D) unit, the rows that `concepts` point to. queries: N, the number of learned queries.
    """
    images, objects = targets.concepts.shape
    groups = group_count(config.groups, objects, queries)
    shape = (images, groups, 2, objects)
    real = targets.real[:, None, None].expand(shape)
    concepts = targets.concepts[:, None, None].expand(shape)
    device = concepts.device
    positive = torch.arange(2, device=device).view(1, 1, 2, 1) == 0
    wrong = ~positive & (torch.rand(shape, device=device) < config.wrong_words) & (len(text) > 1)
    other = (concepts + torch.randint(1, max(2, len(text)), shape, device=device)) % len(text)
    words = text[torch.where(wrong, other, concepts)] * real[..., None]
    far = ~positive & ~wrong
    boxes = noised_boxes(targets.boxes[:, None, None].expand(*shape, 4), far, config.box_noise)
    slots = groups * 2 * objects
    return NoisedQueries(
        boxes.reshape(images, slots, 4),
        words.reshape(images, slots, text.shape[1]),
        real.reshape(images, slots),
        torch.randint(0, queries, (slots,), device=device),
        groups,
    )


def noised_boxes(boxes: Tensor, far: Tensor, noise: float) -> Tensor:
    """Move each side of the boxes by a random share of half the box's width or height (eq. 26).

    boxes: (..., 4) cxcywh in [0, 1]. far: (...) bool. The share is drawn from 0 to `noise`, for far boxes
    from `noise` to twice that, with a random sign. Returns boxes inside the image, at least SMALLEST wide and
    high.
    """
    half = torch.cat([boxes[..., 2:], boxes[..., 2:]], -1) / 2
    share = (torch.rand_like(boxes) + far[..., None].to(boxes.dtype)) * noise
    sign = torch.randint_like(boxes, 0, 2) * 2 - 1
    corners = (to_xyxy(boxes) + sign * share * half).clamp(0, 1)
    low = torch.minimum(corners[..., :2], corners[..., 2:])
    high = torch.maximum(corners[..., :2], corners[..., 2:])
    return torch.cat([(low + high) / 2, (high - low).clamp(min=SMALLEST)], -1)
