"""Decode, crop and resize training JPEGs on the GPU (data.decode=cuda).

The workers only read files; nvJPEG decodes a whole batch in the training process. Its pixels, and those of
resizing on the GPU, differ from the CPU's by a few of 255 levels. Files that it does not support (PNG, CMYK,
photos that must be rotated to fit their annotations) are decoded by the workers; a file that it fails to
decode is decoded on the CPU.
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
from cckt.cache_builder.base.untrusted.image_files import open_image, orientation
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.photos import check_file

Decoder = Callable[[list[Tensor]], list[Tensor]]
"""Maps encoded files, (n,) uint8 each, on the CPU, to images (3, H, W) uint8 on the device."""


def gpu_decoder() -> Decoder:
    """Return torchvision's decoder for the current GPU. Raises UserError if there is no GPU or no decoder."""
    if not torch.cuda.is_available():
        raise _refusal("torch finds no CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())

    def decode(files: list[Tensor]) -> list[Tensor]:
        kind: Any = torchvision.io.ImageReadMode.RGB
        planes: list[Tensor] = torchvision.io.decode_jpeg(files, mode=kind, device=device)
        return planes

    try:  # a torchvision without nvJPEG has the function, but it fails for every file
        decode([_probe()])
    except (RuntimeError, AttributeError) as fault:
        reason = " ".join(str(fault).split())
        raise _refusal(f"torchvision {torchvision.__version__} cannot decode on it ({reason})") from fault
    return decode


def _refusal(reason: str) -> UserError:
    return UserError(f"option data.decode: found 'cuda', but {reason}; use --set data.decode=cpu.")


def _probe() -> Tensor:
    """Return the bytes of a small JPEG, (n,) uint8."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return torch.from_numpy(np.frombuffer(file.getvalue(), np.uint8).copy())


def jpeg_bytes(path: Path, size: tuple[int, int], *, exif: str = "ignore") -> Tensor | None:
    """Return the bytes of a file, (n,) uint8, if the GPU can decode it; None otherwise.

    size: (width, height) of the annotations, which the stored photo must have. exif: `Index.exif`; with
    "apply" a photo that its EXIF orientation turns is not decoded as it is.
    """
    try:
        check_file(path)
        content = read_regular(path)
        with open_image(io.BytesIO(content)) as image:
            plain = image.format == "JPEG" and image.mode in ("RGB", "L") and image.size == tuple(size)
            plain &= exif != "apply" or orientation(image) == 1
    except Exception:  # Pillow raises many kinds; the usual way says what is wrong
        return None
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy()) if plain else None


def decode_all(files: Sequence[Tensor], decode: Decoder) -> list[Tensor | str]:
    """Decode files in one call, or one by one if that fails. Return images, or the reason of a failure."""
    if not files:
        return []
    try:
        return list(decode(list(files)))
    except torch.OutOfMemoryError:  # also a RuntimeError, but not caused by a file
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
    except Exception as fault:  # decoders raise OSError, SyntaxError, struct.error, ...
        return f"cannot be decoded: {' '.join(str(fault).split())}"
