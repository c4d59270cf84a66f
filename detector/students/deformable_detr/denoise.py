"""Contrastive denoising: in training, further queries are told a place and a word: do they fit?

After DN-DETR (Li et al., CVPR 2022) and DINO (Zhang et al., ICLR 2023), with language queries: a denoising
query begins at a noised copy of an annotated box, and its content is that of a learned query plus the
projected text of a concept. The right word near the box is to find the object; a box that is further off, or
a wrong word, is background. Nothing is matched: every query knows its object.

Shape legend: L decoder layers, B photos, N queries, R groups, M most objects of a photo (padded), C concepts,
D teacher width, Q = R * 2 * M denoising queries: in each group first the M that fit, then the M that do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cckt.detector.config.config import DenoiseConfig
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.deformable_detr.outputs import NoisedQueries
from cckt.detector.students.targets import PaddedTargets

SMALLEST = 1e-3
"""Least width and height of a noised box, as shares of the photo."""


def groups_of(wanted: int, objects: int, queries: int) -> int:
    """As many groups as are wanted, but no more than let the denoising queries be as many as the others.

    objects: M of the batch. There is always one group.
    """
    return min(wanted, max(1, queries // max(1, 2 * objects)))


def noised_queries(
    targets: PaddedTargets, text: Tensor, config: DenoiseConfig, queries: int
) -> NoisedQueries:
    """Draw the denoising queries of a batch from torch's generator; Q is 0 where it has no objects.

    text: (C, D) unit, the rows that `concepts` point to. queries: N, how many learned ones there are.
    """
    photos, objects = targets.concepts.shape
    groups = groups_of(config.groups, objects, queries)
    shape = (photos, groups, 2, objects)
    real = targets.real[:, None, None].expand(shape)
    concepts = targets.concepts[:, None, None].expand(shape)
    device = concepts.device
    fits = torch.arange(2, device=device).view(1, 1, 2, 1) == 0
    wrong = ~fits & (torch.rand(shape, device=device) < config.wrong_words) & (len(text) > 1)
    other = (concepts + torch.randint(1, max(2, len(text)), shape, device=device)) % len(text)
    words = text[torch.where(wrong, other, concepts)] * real[..., None]
    far = ~fits & ~wrong
    boxes = shaken(targets.boxes[:, None, None].expand(*shape, 4), far, config.box_noise)
    slots = groups * 2 * objects
    return NoisedQueries(
        boxes.reshape(photos, slots, 4),
        words.reshape(photos, slots, text.shape[1]),
        real.reshape(photos, slots),
        torch.randint(0, queries, (slots,), device=device),
        groups,
    )


def shaken(boxes: Tensor, far: Tensor, noise: float) -> Tensor:
    """Move every side of the boxes by a random share of half the box's width or height.

    boxes: (..., 4) cxcywh in [0, 1]; far: (...) bool. The share is from 0 to `noise`, either way; of the far
    ones from `noise` to twice that, so that a side is always further off than any near one may be. Returns
    boxes inside the photo, at least SMALLEST wide and high.
    """
    half = torch.cat([boxes[..., 2:], boxes[..., 2:]], -1) / 2
    share = (torch.rand_like(boxes) + far[..., None].to(boxes.dtype)) * noise
    sign = torch.randint_like(boxes, 0, 2) * 2 - 1
    corners = (to_xyxy(boxes) + sign * share * half).clamp(0, 1)
    low = torch.minimum(corners[..., :2], corners[..., 2:])
    high = torch.maximum(corners[..., :2], corners[..., 2:])
    return torch.cat([(low + high) / 2, (high - low).clamp(min=SMALLEST)], -1)
