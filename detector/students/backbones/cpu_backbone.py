"""Backbones for inference on a CPU: norms folded and fused, activations with the channels last.

The function stays the same, with different rounding. Maximum pooling and convolutions are faster with the
channels last, a frozen norm costs a pass over memory, and the weights get their layout once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cckt.cache_builder.base.cpu.fold_norms import fold_batch_norms
from cckt.detector.students.backbones.backbone import FROZEN_NORMS, Backbone
from cckt.detector.students.backbones.frozen_norm import Conv2dWithFrozenNorm, FoldedFrozenNorm

CONVS = (nn.Conv2d, Conv2dWithFrozenNorm)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precision -> dtype of the folded convolutions."""
NORMS = (nn.BatchNorm2d, *FROZEN_NORMS, FoldedFrozenNorm)


class ChannelsLast(nn.Module):
    """Runs a network on images with the channels last."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the network; images: (B, 3, H, W)."""
        if not torch.compiler.is_exporting():
            images = images.contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = self.net(images)
        return maps


def prepare_for_cpu(model: nn.Module, precision: str) -> int:
    """Fold the norms of the backbones of a model in eval mode, in place; return the number changed.

    precision: of `autocast` around the forward pass, one of PRECISIONS, else nothing is changed. Backbones
    whose forward pass cannot be traced stay as they are too. The names of weights change: load them before.
    """
    changed = 0
    for backbone in (one for one in model.modules() if isinstance(one, Backbone)):
        if precision in PRECISIONS and fold_batch_norms(backbone.net, PRECISIONS[precision], CONVS, NORMS):
            backbone.net = ChannelsLast(backbone.net)
            changed += 1
    return changed
