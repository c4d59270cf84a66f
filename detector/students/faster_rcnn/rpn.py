"""Region proposal network of Faster R-CNN (Ren et al., NeurIPS 2015): class-agnostic first boxes.

Head, anchors, matching and sampling are torchvision's. Shape legend: B images, A anchors of all levels, N
boxes kept, M boxes of an image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import box_iou

from cckt.detector.config.students import FasterRcnnConfig
from cckt.detector.students.contract import MASKED
from cckt.detector.students.faster_rcnn.codes import decode, encode
from cckt.detector.students.faster_rcnn.outputs import RpnOutput
from cckt.detector.students.first_boxes import (
    REAL,
    best,
    best_of_levels,
    cell_corners,
    distinct,
    inside,
    rows,
)

UNUSED = Matcher.BETWEEN_THRESHOLDS
"""Match of an anchor that is in no loss."""


class RegionProposer(nn.Module):
    """Scores and codes of anchors; the best distinct boxes; the losses of both."""

    def __init__(self, config: FasterRcnnConfig, hidden: int, strides: list[int]) -> None:
        super().__init__()
        self.config, self.strides = config, strides
        self.head = RPNHead(hidden, len(config.anchor_ratios))
        sides = tuple((config.anchor_scale * stride,) for stride in strides)
        self.anchors = AnchorGenerator(sides, (config.anchor_ratios,) * len(strides))
        self.matcher = Matcher(
            config.rpn_positive_iou, config.rpn_negative_iou, allow_low_quality_matches=True
        )
        self.sampler = BalancedPositiveNegativeSampler(config.rpn_samples, config.rpn_positives)

    def forward(self, pyramid: list[Tensor], sizes: Tensor) -> RpnOutput:
        """Return the output of all anchors. pyramid: (B, d, h, w) of every level; sizes: (B, 2)."""
        scores, codes = self.head(pyramid)
        anchors, logits, flat = [], [], []
        for level, cell, stride, score, code in zip(
            pyramid, self.anchors.cell_anchors, self.strides, scores, codes, strict=True
        ):
            corners = cell_corners(level, stride)
            anchors.append((corners.repeat(1, 2)[:, None] + cell.to(corners)).flatten(0, 1))
            known = inside(corners, sizes)[..., None].expand(-1, -1, len(cell)).flatten(1)
            values = score.float().permute(0, 2, 3, 1).flatten(1)
            logits.append(values.masked_fill(~known, MASKED))
            code = code.float().unflatten(1, (len(cell), 4))  # (B, anchors of a cell, 4, h, w)
            flat.append(code.permute(0, 3, 4, 1, 2).flatten(1, 3))
        return RpnOutput(torch.cat(anchors), torch.cat(logits, 1), torch.cat(flat, 1))

    @torch.no_grad()
    def best_boxes(
        self, found: RpnOutput, pyramid: list[Tensor], sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (B, N, 4) xyxy in pixels, best first, their logits (B, N), and which are real (B, N).

        Per level the best boxes, then non-maximum suppression within the level, then the best of all levels.
        """
        config = self.config
        each = config.train_boxes_per_level if self.training else config.boxes_per_level
        count = config.train_boxes if self.training else config.boxes
        kinds = len(config.anchor_ratios)
        counts = [level.shape[-2] * level.shape[-1] * kinds for level in pyramid]
        places, real, level = best_of_levels(torch.split(found.logits, counts, 1), each)
        scores = rows(found.logits, places).masked_fill(~real, MASKED)
        boxes = clipped(decode(rows(found.codes, places), found.anchors[places]), sizes)
        scores = scores.masked_fill(((boxes[..., 2:] - boxes[..., :2]) <= 0).any(-1), MASKED)
        kept = distinct(boxes, scores, config.rpn_nms, level)
        scores = scores.masked_fill(~kept, MASKED)
        places, real = best(scores, count)
        return rows(boxes, places), rows(scores, places).masked_fill(~real, MASKED), real

    def losses(self, found: RpnOutput, goals: list[Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses "rpn_class" and "rpn_box", means over the sampled anchors of all images.

        goals: per image (M, 4) xyxy in pixels, the boxes of objects and of all proposals. Draws anchors with
        torch's generator.
        """
        labels = []
        aims = torch.zeros_like(found.codes)
        for image, goal in enumerate(goals):
            with torch.no_grad():
                label = found.logits.new_zeros(found.anchors.shape[:1])
                goal = goal[(goal[:, 2:] > goal[:, :2]).all(1)]  # an empty box would match every anchor
                if len(goal):
                    match = self.matcher(box_iou(goal, found.anchors))
                    label = torch.where(match >= 0, 1.0, torch.where(match == UNUSED, -1.0, 0.0))
                    aims[image] = encode(goal[match.clamp(min=0)], found.anchors)
                labels.append(label.masked_fill(found.logits[image] <= REAL, -1.0))
        positive, negative = (torch.stack(masks).bool() for masks in self.sampler(labels))
        chosen = positive | negative
        count = chosen.sum().clamp(min=1)
        entropy = F.binary_cross_entropy_with_logits(
            found.logits, torch.stack(labels).clamp(min=0), weight=chosen.float(), reduction="sum"
        )
        distance = ((found.codes - aims).abs().sum(-1) * positive).sum()
        config = self.config
        return {
            "rpn_class": config.loss_rpn_class * entropy / count,
            "rpn_box": config.loss_rpn_box * distance / count,
        }


def clipped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Return xyxy boxes (B, N, 4) cut to their images. sizes: (B, 2), width and height in pixels."""
    return torch.minimum(boxes.clamp(min=0), sizes.repeat(1, 2)[:, None])
