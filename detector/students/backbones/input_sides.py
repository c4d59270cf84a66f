"""Image sizes that a timm model accepts.

Convolutional networks accept any size. Patch embeddings and windows accept multiples of their size, and some
networks round the size of a map down. For all of them `input_sides` finds the smallest padding with which
every image has maps of ceil(side / stride) cells, as padding masks and positions expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError

TRIED_SIZES = ((1, 75), (61, 97), (35, 34))
"""(H, W) of images with which a model is tried: a tiny side, and sides that are odd at different strides."""

LARGEST_WINDOW = 24
"""Largest window of the last map, in cells, with which a model is tried."""

_KNOWN: dict[str, InputSides] = {}
"""Cache of `input_sides`, by name of the model."""


@dataclass(frozen=True)
class InputSides:
    """Sides of images, in pixels, that a backbone accepts and maps to ceil(side / stride) cells."""

    multiple: int = 1
    """Accepted sides are multiples of this."""
    least: int = 1
    """Smallest accepted side."""

    def padded(self, side: int) -> int:
        """Return the smallest accepted side that is not below `side`, which may be a symbol in a graph."""
        if self.least > self.multiple and side < self.least:
            return self.least
        return cells(side, self.multiple) * self.multiple


def cells(side: int, stride: int) -> int:
    """Return ceil(side / stride), written as torch writes it for convolutions: export compares the
    symbols."""
    return (side - 1) // stride + 1


def feature_maps(net: Any, images: Tensor) -> list[Tensor]:
    """Return the feature maps of a timm model, channels first."""
    maps: list[Tensor] = net(images)
    return [one.permute(0, 3, 1, 2) for one in maps] if getattr(net, "output_fmt", "") == "NHWC" else maps


def input_sides(name: str, net: Any) -> InputSides:
    """Return the sides that a timm model of feature maps accepts, found by running it on the device "meta".

    "meta" computes only shapes. net: the model with all its maps; it is moved to "meta". Models whose maps
    never have ceil(side / stride) cells, and those that cannot run on "meta", are used without padding.
    Raises UserError if the model accepts only images of one size.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    strides = list(net.feature_info.reduction())
    try:
        net = net.to("meta").eval()
        _map_sizes(net, net.default_cfg["input_size"][1:])
    except Exception:  # no run on "meta": nothing is known
        return InputSides()
    runs = False
    for sides in _candidates(strides[-1]):
        try:
            fits = _fits(net, strides, sides)
        except Exception:  # timm raises many classes for sizes that a model does not accept
            continue
        if fits:
            _KNOWN[name] = sides
            return sides
        runs = True
    if runs:
        return InputSides()
    raise UserError(
        f"option model.backbone: {name!r} accepts only images of one size, expected a model for any size; "
        "choose another one, such as resnet50."
    )


def _candidates(last: int) -> list[InputSides]:
    """Return the sides to try, least padding first. last: stride of the last map."""
    powers = [2**power for power in range(12) if 2**power < last]
    windows = [InputSides(window * last) for window in range(1, LARGEST_WINDOW + 1)]
    return [InputSides(multiple, least) for multiple in powers for least in (1, last)] + windows


def _fits(net: Any, strides: Sequence[int], sides: InputSides) -> bool:
    """Whether all maps of images with such sides have ceil(side / stride) cells."""
    wide = (2 * sides.multiple + 1, 3 * sides.multiple + 1)
    sizes = {(sides.padded(height), sides.padded(width)) for height, width in (*TRIED_SIZES, wide)}
    return all(
        _map_sizes(net, size) == [tuple(cells(side, stride) for side in size) for stride in strides]
        for size in sizes
    )


@torch.no_grad()
def _map_sizes(net: Any, size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return (h, w) of every feature map of an image of a size, on the device "meta"."""
    return [tuple(one.shape[-2:]) for one in feature_maps(net, torch.empty((1, 3, *size), device="meta"))]
