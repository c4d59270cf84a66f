"""A teacher's own preprocessing, apart from the teacher: what workers hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


class Preprocess:
    """A teacher's own inference preprocessing, in two halves so that bytes travel and not floats.

    `pixels` is what has to happen where the photo is decoded (resize, centre crop or pad; Pillow); `finish`
    what may happen on the device, for a whole batch (to [0, 1], normalise). One after the other they equal
    open_clip's transform bit for bit on the CPU. Small and picklable: worker processes hold it without the
    model.
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
