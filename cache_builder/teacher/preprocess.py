"""A teacher's own preprocessing, apart from the teacher: what workers hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

REDUCTIONS = (8, 4, 2)
"""Scales 1/n at which a JPEG can be decoded directly."""

GAP = 3.0
"""A reduced photo shows what the teacher sees in at least this many times its pixels a side. Measured on COCO
with a trained teacher: at 2.5 the median cosine of whole photos to the exact ones is 0.998."""

FAST = {
    "resize": "torchvision uint8, antialias, cut to the teacher's shape first",
    "decode": "JPEG at 1/2, 1/4 or 1/8 where all that is seen of it stays larger than the teacher's input",
    "gap": GAP,
}
"""What `--fast` changes, as a column's recipe holds it."""


class Preprocess:
    """A teacher's own inference preprocessing, in two halves so that bytes travel and not floats.

    `pixels` is what has to happen where the photo is decoded (resize, centre crop or pad; Pillow); `finish`
    what may happen on the device, for a whole batch (to [0, 1], normalise). One after the other they equal
    open_clip's transform bit for bit on the CPU. Small and picklable: worker processes hold it without the
    model.

    `cut` and `resized` are the fast way to the same shape, near in value and not equal (`--fast`).
    """

    def __init__(self, transform: Any, recipe: dict[str, Any]) -> None:
        *geometry, to_tensor, normalise = transform.transforms
        assert type(to_tensor).__name__ == "MaybeToTensor", transform
        assert type(normalise).__name__ == "Normalize", transform
        self.transform = transform
        self.recipe = recipe
        self._geometry = geometry
        self._mean = torch.tensor(normalise.mean, dtype=torch.float32).view(1, 3, 1, 1)
        self._std = torch.tensor(normalise.std, dtype=torch.float32).view(1, 3, 1, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, S, S) float32, normalised: open_clip's transform itself."""
        result: Tensor = self.transform(image)
        return result

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """(3, S, S) uint8: resized and cropped, not yet normalised."""
        for step in self._geometry:
            image = step(image)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def finish(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 on any device -> float32, normalised, on that device."""
        scaled = pixels.to(torch.float32).div_(255)
        return scaled.sub_(self._mean.to(pixels.device)).div_(self._std.to(pixels.device))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of what the teacher takes."""
        size = self.recipe["size"]
        height, width = (size, size) if isinstance(size, int) else size
        return (3, height, width)

    def cut(self, crop: Tensor) -> Tensor:
        """(3, h, w) uint8 -> the part of it that the teacher will see, a view: what a centre crop after the
        resize would keep, cut before.
        """
        if self._mode != "shortest":
            return crop
        (_, high, wide), (height, width) = self.shape, crop.shape[-2:]
        scale = min(height / high, width / wide)
        kept_height, kept_width = max(1, round(high * scale)), max(1, round(wide * scale))
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        return crop[:, top : top + kept_height, left : left + kept_width]

    def resized(self, part: Tensor) -> Tensor:
        """What `cut` left, on any device -> (3, S, S) uint8 on that device: resized there, and padded where
        the teacher takes photos whole.
        """
        (_, high, wide), (height, width) = self.shape, part.shape[-2:]
        size = [high, wide]
        if self._mode == "longest":
            scale = min(high / height, wide / width)
            size = [max(1, round(height * scale)), max(1, round(width * scale))]
        if [height, width] != size:
            interpolation = F.InterpolationMode(self.recipe["interpolation"])
            part = F.resize_image(part, size, interpolation, antialias=True)
        rows, columns = high - part.shape[-2], wide - part.shape[-1]
        if not rows and not columns:
            return part
        margins = [columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2]
        padded: Tensor = F.pad_image(part, margins, fill=self.recipe["fill_color"])
        return padded

    def reduction(self, sides: NDArray[Any]) -> int:
        """n such that JPEGs may be decoded at 1/n; sides: (m, 2) width and height in pixels of all that the
        teacher is to see of a photo.
        """
        _, high, wide = self.shape
        ratios = sides / np.array([wide, high])
        ratio = ratios.max(axis=1) if self._mode == "longest" else ratios.min(axis=1)
        least = float(ratio.min(initial=np.inf))
        return next((n for n in REDUCTIONS if least >= GAP * n and np.isfinite(least)), 1)

    @property
    def _mode(self) -> str:
        mode: str = self.recipe["resize_mode"]
        return mode
