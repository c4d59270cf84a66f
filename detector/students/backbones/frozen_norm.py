"""Fold BatchNorm with fixed statistics into the preceding convolution.

norm(conv(x)) = scale * (W x + b) + shift = (scale * W) x + (scale * b + shift). The weights are scaled in
each forward pass, so that W trains as before and the names in checkpoints stay the same. The feature maps,
much larger than the weights, are written once instead of three times; under autocast they stay in half
precision.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

STATISTICS = ("weight", "bias", "running_mean", "running_var")
"""Buffers of a frozen norm, (channels,) each."""


class FoldedFrozenNorm(nn.Module):
    """Holds the statistics of a folded norm, under the norm's names, and applies its activation, if any."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        for name in STATISTICS:
            self.register_buffer(name, getattr(norm, name))
        self.eps = float(norm.eps)
        self.act = getattr(norm, "act", nn.Identity())

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (channels,) each."""
        weight, bias, mean, variance = (self.get_buffer(name) for name in STATISTICS)
        scale = weight * (variance + self.eps).rsqrt()
        return scale, bias - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation; the convolution has already scaled and shifted `x`."""
        out: Tensor = self.act(x)
        return out


class Conv2dWithFrozenNorm(nn.Conv2d):
    """A convolution that applies the frozen norm after it in the same operation.

    It takes over the parameters of `conv`, under the same names.
    """

    def __init__(self, conv: nn.Conv2d, norm: FoldedFrozenNorm) -> None:
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
        self._norm = (norm,)  # in a tuple, because the parent registers the module under its own name

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised convolution, (B, out, h, w), of (B, in, H, W)."""
        scale, shift = self._norm[0].factors()
        bias = shift if self.bias is None else shift + self.bias * scale
        out: Tensor = self._conv_forward(input, self.weight * scale[:, None, None, None], bias)
        return out


def fold_frozen_norms(module: nn.Module, norms: tuple[type, ...], conv_then_norm: tuple[type, ...]) -> int:
    """Fold, in place, each frozen norm that directly follows a convolution; return the number folded.

    norms: classes of frozen norms. conv_then_norm: classes of modules, besides Sequential, in which a child
    bn... that follows a child conv... runs directly after it. Norms in other places stay as they are, and so
    do those after convolutions of other classes, such as timm's with "same" padding.
    """
    folded = 0
    children = list(module.named_children())
    for (name, conv), (other, norm) in pairwise(children):
        named = isinstance(module, conv_then_norm) and name[:4] == "conv" and other[:2] == "bn"
        follows = named or isinstance(module, nn.Sequential)
        if follows and type(conv) is nn.Conv2d and isinstance(norm, norms):
            rest = FoldedFrozenNorm(norm)
            setattr(module, other, rest)
            setattr(module, name, Conv2dWithFrozenNorm(conv, rest))
            folded += 1
    return folded + sum(fold_frozen_norms(child, norms, conv_then_norm) for child in module.children())
