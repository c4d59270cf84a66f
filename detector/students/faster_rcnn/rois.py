"""RoIs: which boxes a training step learns from, and what RoIAlign reads of the pyramid inside a box.

Shape legend: B images, N RoIs, C candidates, M boxes of an image to learn from, d width of the pyramid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.students import FasterRcnnConfig
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.faster_rcnn.roi_align_cpu import SAMPLES, align_rois
from cckt.detector.students.first_boxes import rows
from cckt.detector.students.targets import PaddedTargets


@dataclass(frozen=True)
class RoiGoals:
    """What RoIs are assigned to: the objects of an image, then its distilled proposals."""

    boxes: Tensor
    """(B, M, 4) float32 xyxy in pixels."""
    real: Tensor
    """(B, M) bool: not padding."""
    objects: int
    """The first columns, which are objects; the others are proposals."""

    @staticmethod
    def of(targets: PaddedTargets, sizes: Tensor) -> RoiGoals:
        """Of the targets of a batch. sizes: (B, 2), width and height of the unpadded images in pixels."""
        boxes, real = [targets.boxes], [targets.real]
        if targets.proposals is not None:
            boxes.append(targets.proposals.boxes)
            real.append(targets.proposals.distilled)
        scale = sizes.repeat(1, 2)[:, None]
        return RoiGoals(
            to_xyxy(torch.cat(boxes, 1).float()) * scale, torch.cat(real, 1), targets.boxes.shape[1]
        )

    def assign(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest IoU of each box, (B, N), and the column that it is with, (B, N) int64.

        boxes: (B, N, 4) xyxy in pixels. Without columns the IoU is 0 and the column 0.
        """
        if not self.boxes.shape[1]:
            return boxes.new_zeros(boxes.shape[:2]), boxes.new_zeros(boxes.shape[:2], dtype=torch.int64)
        overlap = pairwise_iou(boxes, self.boxes).masked_fill(~self.real[:, None], 0.0)
        largest, column = overlap.max(-1)
        return largest, column


@torch.no_grad()
def draw_rois(
    boxes: Tensor, kept: Tensor, goals: RoiGoals, config: FasterRcnnConfig
) -> tuple[Tensor, Tensor]:
    """Return the RoIs of a training step, (B, N, 4) xyxy in pixels, and which are real, (B, N) bool.

    Candidates are the boxes of the RPN (B, C, 4), where `kept`, and the goals themselves. At most
    `roi_positives` of the N RoIs are positive (IoU at least `roi_iou`); the others are negative. Drawn with
    torch's generator.
    """
    candidates = torch.cat([goals.boxes, boxes], 1)
    known = torch.cat([goals.real, kept], 1)
    largest, _ = goals.assign(candidates)
    positive = known & (largest >= config.roi_iou)
    negative = known & (largest < config.roi_iou)
    luck = torch.rand(known.shape, device=known.device)
    chosen = _first(positive, luck, round(config.rois * config.roi_positives))
    chosen |= _first(negative, luck, config.rois - chosen.sum(1, keepdim=True))
    count = min(config.rois, known.shape[1])
    places = (chosen.float() + luck * 0.5).topk(count, dim=1).indices
    return rows(candidates, places), rows(chosen, places)


def _first(mask: Tensor, luck: Tensor, count: int | Tensor) -> Tensor:
    """Return (B, C) bool, `count` of the True entries of each row, or all if there are fewer."""
    order = luck.masked_fill(~mask, -1.0).argsort(dim=1, descending=True)
    return mask & (order.argsort(dim=1) < count)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU (..., N, M) of xyxy boxes (..., N, 4) and (..., M, 4); 0 for boxes without area."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    shared = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    inner = shared.clamp(min=0).prod(-1)
    area = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1) + (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return inner / (area - inner).clamp(min=1e-6)


def levels_of(boxes: Tensor, levels: int, finest_side: float) -> Tensor:
    """Return the level of each box, (...) int64: the finest below twice `finest_side`, then one per doubling.

    Feature pyramid networks, eq. 1, with its 224 px on the third of the levels: finest_side 56.
    """
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1).sqrt()
    level = torch.floor(torch.log2(side / finest_side + 1e-6))
    return level.clamp(0, levels - 1).to(torch.int64)


def read_regions(
    pyramid: list[Tensor], strides: list[int], boxes: Tensor, cells: int, finest_side: float
) -> Tensor:
    """Return (B * N, d, cells, cells), the RoIAlign of each box on its level. boxes: (B, N, 4), pixels."""
    flat = boxes.flatten(0, 1)
    level = levels_of(flat, len(pyramid), finest_side)
    if torch.compiler.is_exporting():  # the number of boxes of a level is unknown in a graph
        out = _read_grid(pyramid[0], strides[0], boxes, cells)
        for number in range(1, len(pyramid)):
            other = _read_grid(pyramid[number], strides[number], boxes, cells)
            out = torch.where((level == number)[:, None, None, None], other, out)
        return out
    image = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
    numbered = torch.cat([image[:, None].to(flat.dtype), flat], 1)
    width, parts, places = pyramid[0].shape[1], [], []
    for number, (one, stride) in enumerate(zip(pyramid, strides, strict=True)):
        here = (level == number).nonzero()[:, 0]
        parts.append(align_rois(one.float(), numbered[here], cells, 1.0 / stride))
        places.append(here)
    joined = torch.cat(parts)
    assert joined.shape[1] == width, "levels differ in width"
    return joined.new_zeros(joined.shape).index_copy(0, torch.cat(places), joined)


def _read_grid(level: Tensor, stride: int, boxes: Tensor, cells: int) -> Tensor:
    """Compute RoIAlign by grid_sample, which graphs support for any number of boxes inside the image."""
    steps = cells * SAMPLES
    at = (torch.arange(steps, device=boxes.device, dtype=boxes.dtype) + 0.5) / steps
    points = (
        boxes[..., None, :2] + (boxes[..., None, 2:] - boxes[..., None, :2]) * at[:, None]
    )  # (B, N, s, 2)
    sides = [boxes.new_ones(()) * level.shape[axis] * stride for axis in (3, 2)]
    x, y = (2 * points[..., axis] / sides[axis] - 1 for axis in (0, 1))
    grid = torch.stack([x[:, :, None].expand(-1, -1, steps, -1), y[..., None].expand(-1, -1, -1, steps)], -1)
    read = F.grid_sample(level, grid.flatten(1, 2), padding_mode="border", align_corners=False)
    batch, width = level.shape[:2]
    split = read.view(batch, width, -1, steps, steps).transpose(1, 2).flatten(0, 1)
    return F.avg_pool2d(split, SAMPLES)
