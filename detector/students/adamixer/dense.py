"""Dense first boxes of AdaMixer, in the style of DDQ (Zhang et al., CVPR 2023; docs/method/hd_ovd.md, section
7.1).

Shape legend: B images, S points of the dense levels, T candidates, d hidden size, D width of the teacher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.config.config import Config
from cckt.detector.students.adamixer.outputs import DenseBoxes, DenseOutput
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import MASKED
from cckt.detector.students.first_boxes import best_of_levels, cell_corners, distinct, inside, rows
from cckt.detector.students.heads import PRIOR_LOGIT
from cckt.detector.students.precision import single

LARGEST_LOG = 8.0
"""Largest logarithm of a distance in strides, so that a diverged model stays finite."""


class DenseStage(nn.Module):
    """A tower that levels and heads share, then a one-to-one (main) and a one-to-many (auxiliary) head.

    strides: of the dense levels, in pixels.
    """

    def __init__(self, config: Config, embedding_dim: int, strides: list[int]) -> None:
        super().__init__()
        hidden = config.model.hidden
        self.config, self.strides = config.adamixer, strides
        self.before, self.after = _block(hidden), _block(hidden)
        self.main = DenseHead(hidden, embedding_dim, len(strides), config.adamixer.dense_scale)
        self.auxiliary = DenseHead(hidden, embedding_dim, len(strides), config.adamixer.dense_scale)

    def forward(self, pyramid: list[Tensor], sizes: Tensor) -> DenseOutput:
        """pyramid: (B, d, h, w) of the dense levels. sizes: (B, 2), width and height of the images."""
        levels = [self.after(level) for level in exchanged([self.before(level) for level in pyramid])]
        corners = [cell_corners(level, stride) for level, stride in zip(levels, self.strides, strict=True)]
        points = torch.cat([one + stride / 2 for one, stride in zip(corners, self.strides, strict=True)])
        real = [inside(one, sizes) for one in corners]
        scale = sizes[:, None]
        main = self.main(levels, corners, real, self.strides, scale)
        auxiliary = None
        if self.training:
            joined = self.auxiliary(levels, corners, real, self.strides, scale)
            auxiliary = DenseBoxes(*(torch.cat(one, 1) for one in joined))
        return DenseOutput(points / scale, self._candidates(*main), auxiliary)

    def _candidates(self, logits: list[Tensor], boxes: list[Tensor]) -> DenseBoxes:
        """Return the best points of every level that non-maximum suppression over all levels keeps."""
        places, real, _ = best_of_levels([one.detach() for one in logits], self.config.dense_per_level)
        score = rows(torch.cat(logits, 1), places).masked_fill(~real, MASKED)
        box = rows(torch.cat(boxes, 1), places)
        kept = real & distinct(to_xyxy(box.detach()).clamp(0, 1), score, self.config.dense_nms)
        return DenseBoxes(score.masked_fill(~kept, MASKED), box)


class DenseHead(nn.Module):
    """Objectness and box of every point (eq. 40).

    The generic text t_o of the released code is learned here: a student knows no teacher.
    """

    def __init__(self, hidden: int, embedding_dim: int, levels: int, scale: float) -> None:
        super().__init__()
        self.box_state = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.box = nn.Conv2d(hidden, 4, 1)
        self.state = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.embed = nn.Conv2d(hidden, embedding_dim, 1)
        self.generic = nn.Parameter(torch.randn(embedding_dim))
        """(D,) t_o."""
        self.scale = nn.Parameter(torch.tensor(scale))
        """gamma."""
        self.bias = nn.Parameter(torch.tensor(PRIOR_LOGIT))
        """kappa."""
        self.level_factors = nn.Parameter(torch.ones(levels))
        for conv in (self.box_state, self.box, self.state, self.embed):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None, "a convolution of the dense head has no bias"
            nn.init.zeros_(conv.bias)
        nn.init.xavier_uniform_(self.embed.weight)
        assert self.box.bias is not None, "the box layer has a bias"
        nn.init.constant_(self.box.bias, 1.0)

    def forward(
        self,
        levels: list[Tensor],
        corners: list[Tensor],
        real: list[Tensor],
        strides: list[int],
        scale: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return per level logits (B, h * w), MASKED in the padding, and boxes (B, h * w, 4) cxcywh.

        corners: of the cells. real: (B, h * w) bool of each level, False in the padding. scale: (B, 1, 2),
        width and height of the unpadded images, to which boxes are relative.
        """
        logits, boxes = [], []
        for number, (level, corner, known, stride) in enumerate(
            zip(levels, corners, real, strides, strict=True)
        ):
            x = single(self.embed(F.relu(self.state(level)))).flatten(2)
            # The cosine is over channels; the released code normalises positions (fault 1 of section 11).
            with torch.autocast(x.device.type, enabled=False):
                cosine = F.normalize(self.generic, dim=0) @ F.normalize(x, dim=1, eps=1e-6)
                logits.append((self.scale * cosine + self.bias).masked_fill(~known, MASKED))
            far = single(self.box(F.relu(self.box_state(level)))).flatten(2).transpose(1, 2)
            far = far.clamp(max=LARGEST_LOG).exp() * (self.level_factors[number] * stride)
            centre = corner + stride / 2
            left, right = far[..., :2], far[..., 2:]
            boxes.append(torch.cat([(centre + (right - left) / 2) / scale, (left + right) / scale], -1))
        return logits, boxes


def exchanged(levels: list[Tensor]) -> list[Tensor]:
    """Exchange channels between neighbouring levels: half stay, a quarter comes from each neighbour.

    The third quarter comes from the finer level and the last from the coarser one, resized (bilinear,
    aligned corners); the first and last level use themselves in place of a missing neighbour.
    """
    width = levels[0].shape[1]
    half, three = width // 2, width - width // 4
    out = []
    for number, level in enumerate(levels):
        size = (level.shape[2], level.shape[3])
        finer, coarser = levels[max(number - 1, 0)], levels[min(number + 1, len(levels) - 1)]
        parts = [level[:, :half]]
        for source, first, last in ((finer, half, three), (coarser, three, width)):
            taken = source[:, first:last]
            if source is not level:
                taken = F.interpolate(taken, size=size, mode="bilinear", align_corners=True)
            parts.append(taken)
        out.append(torch.cat(parts, 1))
    return out


def _block(hidden: int) -> nn.Sequential:
    conv = nn.Conv2d(hidden, hidden, 3, padding=1)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None, "a convolution of the tower has no bias"
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(32, hidden), nn.ReLU())
