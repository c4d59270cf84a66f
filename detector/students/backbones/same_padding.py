"""Layers of timm with the padding "SAME" of TensorFlow, in a form that graphs for any size can hold.

The padding of these layers depends on the size of their input.
"""

from __future__ import annotations

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional

STANDARDISED = (StdConv2dSame, ScaledStdConv2dSame)
SAME = (Conv2dSame, MaxPool2dSame, AvgPool2dSame, *STANDARDISED)
"""timm's layers with the padding "SAME" of TensorFlow, which depends on the size of their input."""


class StaticPadding(nn.Module):
    """A layer of SAME behind the padding that it has for inputs whose sides are multiples of its stride.

    SAME pads a side by max(0, (ceil(side / stride) - 1) * stride + extent - side), where extent is that of
    the dilated kernel; the smaller half comes first. For a multiple of the stride that is
    max(0, extent - stride), whatever the side. Traced for any size, nested maxima of symbols keep
    torch.export busy for many minutes.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        kernel, stride, dilation = (
            _pair(getattr(part, name, 1)) for name in ("kernel_size", "stride", "dilation")
        )
        totals = [
            max(0, (size - 1) * spread + 1 - step)
            for size, step, spread in zip(kernel, stride, dilation, strict=True)
        ]
        (above, below), (left, right) = ((total // 2, total - total // 2) for total in totals)
        self.padding = (left, right, above, below)
        self.fill = float("-inf") if isinstance(part, MaxPool2dSame) else 0.0
        self.part = part
        if isinstance(part, STANDARDISED):
            part.same_pad = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        part, x = self.part, functional.pad(x, self.padding, value=self.fill)
        if isinstance(part, STANDARDISED):
            standardised: Tensor = part(x)
            return standardised
        if isinstance(part, nn.Conv2d):
            return functional.conv2d(x, part.weight, part.bias, part.stride, 0, part.dilation, part.groups)
        if isinstance(part, nn.MaxPool2d):
            pooled: Tensor = functional.max_pool2d(x, part.kernel_size, part.stride, 0, part.dilation)
            return pooled
        assert isinstance(part, nn.AvgPool2d), f"expected a layer of SAME, found {type(part).__name__}"
        # As timm computes it: the padding counts.
        return functional.avg_pool2d(x, part.kernel_size, part.stride)


def has_same_padding(model: nn.Module) -> bool:
    """Whether a layer of a model has the padding SAME."""
    return any(is_same(part) for part in model.modules())


def is_same(part: nn.Module) -> bool:
    """Whether a layer has the padding SAME, whichever class it is of."""
    return isinstance(part, SAME) and getattr(part, "same_pad", True)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
