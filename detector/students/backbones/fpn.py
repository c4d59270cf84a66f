"""Feature pyramid network (Lin et al., CVPR 2017) over the maps of a backbone; torchvision's, wrapped.

Shape legend: B images, h and w sides of a level in cells, d hidden size.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork


class FeaturePyramid(nn.Module):
    """Top-down pyramid of width d, and coarser levels by subsampling the last one.

    channels: of the backbone's maps. levels: at least as many. norm: a GroupNorm(32) of its own for every
    level (docs/method/hd_ovd.md, section 7.1).
    """

    def __init__(self, channels: list[int], levels: int, hidden: int, *, norm: bool = False) -> None:
        super().__init__()
        assert levels >= len(channels), f"expected at least {len(channels)} levels, found {levels}"
        self.fpn = FeaturePyramidNetwork(channels, hidden)
        self.added = levels - len(channels)
        self.norms = nn.ModuleList(nn.GroupNorm(32, hidden) for _ in range(levels)) if norm else None

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return (B, d, h, w) for each level. maps: (B, channels, h, w) of each stride, finest first.

        An added level has every second row and column of the one before: ceil(h / 2) by ceil(w / 2) cells.
        """
        named = OrderedDict((str(number), one) for number, one in enumerate(maps))
        out: list[Tensor] = list(self.fpn(named).values())
        for _ in range(self.added):
            out.append(F.max_pool2d(out[-1], 1, 2))
        if self.norms is None:
            return out
        return [norm(level) for norm, level in zip(self.norms, out, strict=True)]


def level_strides(strides: tuple[int, ...], levels: int) -> list[int]:
    """Return the stride of each level in pixels: those of the backbone, then doubled for each added level."""
    added = [strides[-1] << number for number in range(1, levels - len(strides) + 1)]
    return [*strides, *added]
