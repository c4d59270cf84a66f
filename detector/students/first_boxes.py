"""First boxes of a detector: from a score and a box at every cell to the best distinct boxes of each image.

All shapes are fixed by the options and the size of the batch: what is missing is padded and marked, so that
the same code runs on a GPU and in an exported graph.

Shape legend: B images, S cells (or anchors) of all levels, T candidates, N boxes kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, nms

from cckt.detector.students.contract import MASKED

REAL = MASKED / 2
"""Scores above are of cells inside an image; those of padding are MASKED."""


def image_sizes(images: Tensor, padding: Tensor | None) -> Tensor:
    """Return (B, 2) float32, width and height of the images in pixels, without padding.

    images: (B, 3, H, W). padding: (B, H, W) bool, True in the padding, or None.
    """
    if padding is None:
        height, width = images.shape[-2:]
        sides = [torch.full((), side, dtype=torch.float32, device=images.device) for side in (width, height)]
        return torch.stack(sides).expand(images.shape[0], 2)
    return torch.stack([(~padding[:, 0]).sum(1), (~padding[:, :, 0]).sum(1)], 1).float()


def cell_corners(level: Tensor, stride: int) -> Tensor:
    """Return (h * w, 2) float32, x and y in pixels of the upper left corner of each cell of a level."""
    height, width = level.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=level.device), torch.arange(width, device=level.device), indexing="ij"
    )
    return torch.stack([x, y], -1).flatten(0, 1).float() * stride


def inside(corners: Tensor, sizes: Tensor) -> Tensor:
    """Return (B, S) bool: the cell begins inside the unpadded image. corners: (S, 2); sizes: (B, 2)."""
    return (corners[None] < sizes[:, None]).all(-1)


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the places of the `count` highest scores, (B, count) int64, and which are real, (B, count) bool.

    scores: (B, S), MASKED where there is none. Places that are not real point anywhere.
    """
    total = scores.shape[1]
    exporting = torch.compiler.is_exporting()
    if exporting or total < count:  # in a graph for images of any size `total` is a symbol
        scores = F.pad(scores, (0, count if exporting else count - total), value=MASKED)
    values, places = scores.topk(count, dim=1)
    return places.clamp(max=total - 1), values > REAL


def best_of_levels(levels: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of the `count` highest scores of each level, as numbers in all levels joined.

    levels: (B, S_l) scores, MASKED where there is none. Returns places (B, T) int64, which are real (B, T)
    bool, and the level of each candidate (T,) int64.
    """
    places, real, numbers, first = [], [], [], 0
    for number, scores in enumerate(levels):
        few = count if torch.compiler.is_exporting() else min(count, scores.shape[1])
        place, known = best(scores, few)
        places.append(place + first)
        real.append(known)
        numbers.append(torch.full((few,), number, device=scores.device))
        first = first + scores.shape[1]
    return torch.cat(places, 1), torch.cat(real, 1), torch.cat(numbers)


@torch.no_grad()
def distinct(boxes: Tensor, scores: Tensor, overlap: float, group: Tensor | None = None) -> Tensor:
    """Return (B, T) bool, the boxes that non-maximum suppression keeps in each image (and group).

    boxes: (B, T, 4) xyxy. scores: (B, T). group: (T,) int64: boxes of different groups do not meet.
    """
    images, count = scores.shape
    numbers = torch.arange(images, device=scores.device)[:, None]
    if group is None:
        apart = numbers.expand(-1, count)
    else:
        apart = numbers + images * group[None]
    flat, values = boxes.detach().float().flatten(0, 1), scores.detach().float().flatten()
    if torch.compiler.is_exporting():  # batched_nms chooses its way by the number of boxes, here a symbol
        shift = (flat.max() - flat.min() + 1) * apart.reshape(-1).to(flat.dtype)
        kept = nms(flat + shift[:, None], values, overlap)
    else:
        kept = batched_nms(flat, values, apart.reshape(-1), overlap)
    return torch.zeros_like(values, dtype=torch.bool).index_fill(0, kept, True).view(images, count)


def rows(values: Tensor, places: Tensor) -> Tensor:
    """Return (B, N, ...) of (B, T, ...) at places (B, N)."""
    index = places.reshape(*places.shape, *(1,) * (values.dim() - 2))
    return values.gather(1, index.expand(*places.shape, *values.shape[2:]))
