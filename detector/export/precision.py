"""ONNX graphs in lower precision, by the converters that onnxruntime ships."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.photos import to_rgb
from cckt.detector.config.config import Config
from cckt.detector.data.transforms import eval_view

MOST_PHOTOS = 64
"""Most photos from which the ranges of int8 are taken."""
CONVOLUTIONS = ["Conv"]
"""Operators in int8. The matrix products of attention lose too much accuracy."""


def in_half(content: bytes) -> bytes:
    """Return a graph whose weights and values are float16; inputs and outputs stay float32."""
    onnx = importlib.import_module("onnx")
    convert = importlib.import_module("onnxruntime.transformers.float16").convert_float_to_float16
    model = convert(onnx.load_from_string(content), keep_io_types=True)
    half: bytes = model.SerializeToString()
    return half


def in_int8(content: bytes, batches: Sequence[Tensor]) -> bytes:
    """Return a graph whose convolutions are int8, in the form QuantizeLinear and DequantizeLinear.

    batches: (B, 3, H, W) float32 images in [0, 1], from which the ranges of values are taken. Weights have a
    range per channel.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(content)
        quantization.quantize_static(
            str(source),
            str(target),
            _Batches(batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=CONVOLUTIONS,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return read_regular(target)


class _Batches:
    """The `CalibrationDataReader` of onnxruntime: one batch after the other, then None."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = batches
        self.rewind()

    def rewind(self) -> None:
        self._left = iter(self._batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._left, None)
        return None if batch is None else {"images": batch.numpy()}


def calibration_images(
    photos: Sequence[Image.Image], config: Config, size: tuple[int, int] | None, multiple: int
) -> list[Tensor]:
    """Return up to MOST_PHOTOS photos as batches (1, 3, H, W) float32 in [0, 1].

    They have the size of the graph, or their evaluation size, rounded up to multiples of `multiple`.
    """
    batches = []
    for photo in photos[:MOST_PHOTOS]:
        image = to_rgb(photo)
        sides = size or eval_view(image.height, image.width, config.data).size
        height, width = (-(-side // multiple) * multiple for side in sides)
        pixels = F.resize_image(F.pil_to_tensor(image), [height, width], antialias=True)
        batches.append(pixels.to(torch.float32).div_(255)[None])
    return batches
