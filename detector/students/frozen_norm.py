"""BatchNorm with fixed statistics costs nothing of its own: it is folded into the convolution before it.

norm(conv(x)) = scale * (W x + b) + shift = (scale * W) x + (scale * b + shift). The weights are scaled in
each forward pass, so that W learns as before and checkpoints have the same names; the feature maps, many
times as large, are written once instead of three times, and under autocast they stay in half precision.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

STATISTICS = ("weight", "bias", "running_mean", "running_var")


class FoldedNorm(nn.Module):
    """What is left of a frozen norm: its statistics under their old names, and its activation, if any."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        for name in STATISTICS:
            self.register_buffer(name, getattr(norm, name))
        self.eps = float(norm.eps)
        self.act = getattr(norm, "act", nn.Identity())

    def factors(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, (channels,) each."""
        weight, bias, mean, variance = (self.get_buffer(name) for name in STATISTICS)
        scale = weight * (variance + self.eps).rsqrt()
        return scale, bias - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """x comes scaled and shifted by the convolution before."""
        out: Tensor = self.act(x)
        return out


class FoldedConv(nn.Conv2d):
    """A convolution that does the work of the norm after it as well."""

    def __init__(self, conv: nn.Conv2d, norm: FoldedNorm) -> None:
        with torch.device("meta"):
            super().__init__(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                conv.dilation,  # type: ignore[arg-type]
                conv.groups,
                conv.bias is not None,
                conv.padding_mode,
            )
        self.weight, self.bias = conv.weight, conv.bias
        self._norm = (norm,)  # in a tuple: it is a module of the parent's, under the parent's name for it

    def forward(self, input: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, h, w), normed."""
        scale, shift = self._norm[0].factors()
        bias = shift if self.bias is None else shift + self.bias * scale
        out: Tensor = self._conv_forward(input, self.weight * scale[:, None, None, None], bias)
        return out


def fold_norms(module: nn.Module, norms: tuple[type, ...], in_order: tuple[type, ...]) -> int:
    """Fold every frozen norm that is known to follow right after a convolution; returns how many were.

    norms: the kinds of frozen norm. in_order: the kinds of module, beside Sequential, that run bnK right
    after convK. Norms elsewhere are left as they are.
    """
    folded = 0
    children = list(module.named_children())
    for (name, conv), (other, norm) in pairwise(children):
        numbered = isinstance(module, in_order) and name[:4] == "conv" and other == f"bn{name[4:]}"
        follows = numbered or isinstance(module, nn.Sequential)
        if follows and type(conv) is nn.Conv2d and isinstance(norm, norms):
            rest = FoldedNorm(norm)
            setattr(module, other, rest)
            setattr(module, name, FoldedConv(conv, rest))
            folded += 1
    return folded + sum(fold_norms(child, norms, in_order) for child in module.children())
