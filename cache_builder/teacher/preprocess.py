"""A teacher's preprocessing, without the teacher: for the workers that decode."""

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
"""Each side of a reduced photo, or of a crop in it, has at least this many times the teacher's pixels.

Measured on COCO with a trained teacher: at 2.5 whole photos have median cosine 0.998 to the exact ones."""

FAST = {
    "resize": "torchvision uint8, antialias, cut to the teacher's shape first",
    "decode": "JPEG at 1/2, 1/4 or 1/8 where all that is seen of it stays larger than the teacher's input",
    "gap": GAP,
}
"""What `--fast` changes, as a column's recipe holds it."""


class Preprocess:
    """A teacher's inference preprocessing, in two halves, so that workers send bytes and not floats.

    `pixels` runs where the photo is decoded (resize, centre crop or pad; Pillow). `finish` runs on the
    device, for a whole batch (scale to [0, 1], normalise). Together they equal open_clip's transform bit for
    bit on the CPU. Small and picklable: worker processes have it without the model.

    `cut` and `resized` are the fast way to the same shape, with values near the exact ones (`--fast`).
    """

    def __init__(self, transform: Any, recipe: dict[str, Any]) -> None:
        *geometry, to_tensor, normalise = transform.transforms
        kinds = [type(step).__name__ for step in (to_tensor, normalise)]
        assert kinds == ["MaybeToTensor", "Normalize"], f"expected open_clip's transform, found {transform}"
        self.transform = transform
        self.recipe = recipe
        self._geometry = geometry
        self._mean = torch.tensor(normalise.mean, dtype=torch.float32).view(1, 3, 1, 1)
        self._std = torch.tensor(normalise.std, dtype=torch.float32).view(1, 3, 1, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return (3, S, S) float32, normalised, by open_clip's transform."""
        result: Tensor = self.transform(image)
        return result

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return (3, S, S) uint8, resized and cropped, not normalised."""
        for step in self._geometry:
            image = step(image)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def finish(self, pixels: Tensor) -> Tensor:
        """Return pixels (B, 3, S, S) uint8 as float32, normalised, on their device."""
        scaled = pixels.to(torch.float32).div_(255)
        return scaled.sub_(self._mean.to(pixels.device)).div_(self._std.to(pixels.device))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of the teacher's input."""
        size = self.recipe["size"]
        height, width = (size, size) if isinstance(size, int) else size
        return (3, height, width)

    def cut(self, crop: Tensor) -> Tensor:
        """Return a view of a crop (3, h, w) uint8: what a centre crop after the resize would keep."""
        if self._mode != "shortest":
            return crop
        (_, high, wide), (height, width) = self.shape, crop.shape[-2:]
        scale = min(height / high, width / wide)
        kept_height, kept_width = max(1, round(high * scale)), max(1, round(wide * scale))
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        return crop[:, top : top + kept_height, left : left + kept_width]

    def resized(self, part: Tensor) -> Tensor:
        """Return the result of `cut`, on any device, as (3, S, S) uint8 on that device.

        It is resized, and padded if the teacher's preprocessing keeps the whole image.
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
        """Return n such that a JPEG may be decoded at 1/n of its size.

        sides: (m, 2) width and height in pixels of all rectangles of the photo that the teacher encodes.
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
