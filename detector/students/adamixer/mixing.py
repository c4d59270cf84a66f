"""Sampling of points from a pyramid, and adaptive mixing of what they read (AdaMixer, Gao et al., CVPR 2022).

docs/method/hd_ovd.md, eqs. 45 and 46. Shape legend: B images, N queries, G groups, P points of a group, L
levels, d hidden size, S = sum of h*w over levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.config.students import AdaMixerConfig
from cckt.detector.students.adamixer.coding import sides
from cckt.detector.students.deformable_detr.sampling import sample, sides_of
from cckt.detector.students.precision import single


class LevelMaps:
    """A pyramid prepared for sampling: all cells in one tensor. strides: of the levels, in pixels."""

    def __init__(self, pyramid: list[Tensor], strides: list[int]) -> None:
        self.shapes = [(level.shape[2], level.shape[3]) for level in pyramid]
        self.cells = torch.cat([level.flatten(2).transpose(1, 2) for level in pyramid], 1)
        """(B, S, d)."""
        self.strides = strides

    def read(self, points: Tensor, scales: Tensor) -> Tensor:
        """Return (B, N, G, P, d / G): bilinear samples of each group's channels, levels mixed by eq. 45.

        points: (B, N, G, P, 2), x and y in pixels. scales: (B, N, G, P), the z of each point.
        """
        batch, queries, groups, count = scales.shape
        value = torch.unflatten(self.cells, -1, (groups, -1))
        extent = sides_of(self.shapes, points) * points.new_tensor(self.strides)[:, None]  # (L, 2)
        # `sample` sums over levels and points: every point is a query of its own.
        places = (points[..., None, :] / extent).permute(0, 1, 3, 2, 4, 5).flatten(1, 2)  # (B, NP, G, L, 2)
        shares = level_shares(scales, self.strides).permute(0, 1, 3, 2, 4).flatten(1, 2)  # (B, NP, G, L)
        read = sample(value, self.shapes, places[..., None, :].contiguous(), shares[..., None].contiguous())
        return read.view(batch, queries, count, groups, -1).transpose(2, 3)


def level_shares(scales: Tensor, strides: list[int]) -> Tensor:
    """Return (..., L), the weight of each level for points at scale z (eq. 45). scales: (...)."""
    levels = scales.new_tensor(strides).log2()
    return (-(scales[..., None] - levels).square() / 2).softmax(-1)


class AdaptiveMixing(nn.Module):
    """Reads G x P points around each box, and mixes their channels and then the points (eq. 46)."""

    def __init__(self, hidden: int, config: AdaMixerConfig) -> None:
        super().__init__()
        groups, inner, outer = config.groups, config.points_in, config.points_out
        self.groups, self.points_in, self.points_out = groups, inner, outer
        self.width = hidden // groups
        self.sampling_offsets = nn.Linear(hidden, groups * inner * 3)
        self.parameters_of = nn.Linear(hidden, groups * (self.width**2 + inner * outer))
        self.out = nn.Linear(groups * outer * self.width, hidden)
        nn.init.zeros_(self.sampling_offsets.weight)
        bias = self.sampling_offsets.bias.data.view(groups * inner, 3)
        nn.init.uniform_(bias[:, :2], -0.5, 0.5)
        nn.init.constant_(bias[:, 2], config.point_scale)
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, content: Tensor, codes: Tensor, maps: LevelMaps) -> Tensor:
        """Return content (B, N, d) plus what the mixed points say. codes: (B, N, 4) of the boxes."""
        # Float32 under autocast too: bfloat16 cannot represent a pixel of a wide image.
        offsets = torch.unflatten(
            single(self.sampling_offsets(content)), -1, (self.groups, self.points_in, 3)
        )
        around = codes[:, :, None, None]
        points = around[..., :2] + offsets[..., :2] * sides(around)
        read = maps.read(points, around[..., 2] + offsets[..., 2])
        channels, mixed = (
            self.parameters_of(content)
            .unflatten(-1, (self.groups, -1))
            .split([self.width**2, self.points_in * self.points_out], -1)
        )
        read = read.to(channels.dtype) @ channels.unflatten(-1, (self.width, self.width))
        read = F.relu(F.layer_norm(read, read.shape[-2:]))
        read = mixed.unflatten(-1, (self.points_out, self.points_in)) @ read
        read = F.relu(F.layer_norm(read, read.shape[-2:]))
        out: Tensor = content + self.out(read.flatten(2))
        return out
