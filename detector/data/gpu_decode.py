"""JPEGs decoded, cut and sized on the GPU (data.decode = "cuda"), where torchvision offers it.

The workers then only read files; nvJPEG decodes a batch at once in the training process. Its pixels differ
from the CPU's decoder by a few of 255 levels, and so does its resizing. What it does not know (PNG, CMYK,
photos that are turned to fit their annotations) takes the usual way; a file that breaks in its hands is tried
on the CPU.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.io
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.image_files import open_image, orientation
from cckt.cache_builder.photos import check_file

Decoder = Callable[[list[Tensor]], list[Tensor]]
"""Encoded files (n,) uint8 on the CPU -> photos (3, H, W) uint8 on the device."""


def gpu_decoder() -> Decoder:
    """torchvision's decoder for the current GPU. Raises UserError where there is none of either."""
    if not torch.cuda.is_available():
        raise _refusal("torch sees no CUDA device here")
    device = torch.device("cuda", torch.cuda.current_device())

    def decode(files: list[Tensor]) -> list[Tensor]:
        kind: Any = torchvision.io.ImageReadMode.RGB
        planes: list[Tensor] = torchvision.io.decode_jpeg(files, mode=kind, device=device)
        return planes

    try:  # a torchvision without nvJPEG has the function, and refuses every file
        decode([_probe()])
    except (RuntimeError, AttributeError) as fault:
        told = " ".join(str(fault).split())
        raise _refusal(f"torchvision {torchvision.__version__} decodes none on it ({told})") from fault
    return decode


def _refusal(lacks: str) -> UserError:
    return UserError(f"option data.decode: found 'cuda', but {lacks}; use --set data.decode=cpu.")


def _probe() -> Tensor:
    """The bytes of a small JPEG."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return torch.from_numpy(np.frombuffer(file.getvalue(), np.uint8).copy())


def jpeg_bytes(path: Path, size: tuple[int, int], *, exif: str = "ignore") -> Tensor | None:
    """A file's bytes, (n,) uint8, if a GPU can decode it as it is; None for any other, unreadable ones too.

    size: (width, height) of the annotations, which the stored photo must have. exif: `Index.exif`; with
    "apply" a photo that its EXIF orientation turns is not decoded as it is.
    """
    try:
        check_file(path)
        content = path.read_bytes()
        with open_image(io.BytesIO(content)) as image:
            plain = image.format == "JPEG" and image.mode in ("RGB", "L") and image.size == tuple(size)
            plain &= exif != "apply" or orientation(image) == 1
    except Exception:  # Pillow raises many kinds; the usual way says what is wrong
        return None
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy()) if plain else None


def decode_all(files: Sequence[Tensor], decode: Decoder) -> list[Tensor | str]:
    """All files at once; if one breaks, each by itself. Returns photos, or why there is none."""
    if not files:
        return []
    try:
        return list(decode(list(files)))
    except torch.OutOfMemoryError:  # a RuntimeError too, and no fault of the files
        raise
    except RuntimeError:
        return [_decode_one(file, decode) for file in files]


def _decode_one(file: Tensor, decode: Decoder) -> Tensor | str:
    try:
        return decode([file])[0]
    except RuntimeError:
        pass
    try:
        with open_image(io.BytesIO(file.numpy().tobytes())) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    except Exception as fault:  # decoders raise OSError, SyntaxError, struct.error ...
        return f"cannot be decoded: {' '.join(str(fault).split())}"
