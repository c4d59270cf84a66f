"""Views of an image: flip, crop, resize, pad, normalise.

A `View` is first drawn (from the image's size and a generator) and then applied, so that the draw can be
tested, repeated, and applied to boxes and pixels alike. Images stay uint8 until `normalise`, which runs on
the whole batch on its device: a quarter of the bytes to copy.

Sizes are (height, width) in pixels. Boxes are converted from xyxy in pixels of the original image to cxcywh
in [0, 1] of the view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from cckt.detector.config.config import DataConfig

MIDDLE_SIDES = (0.5, 0.625, 0.75)
"""DETR's crop: short side before the crop, in units of the largest short side (400 to 600 of 800)."""
CROP_SIDES = (0.48, 0.75)
"""DETR's crop: smallest and largest side of the crop, in the same unit (384 and 600 of 800)."""


@dataclass(frozen=True)
class View:
    """The visible part of an image and its size.

    crop: (top, left, height, width) in pixels of the original; None for the whole image. size: (height,
    width) after resizing. flip: flip horizontally, after the crop.
    """

    crop: tuple[int, int, int, int] | None
    size: tuple[int, int]
    flip: bool = False


def resized(height: int, width: int, short: int, max_side: int) -> tuple[int, int]:
    """Return (height, width) with the short side `short`, or smaller if the long side would exceed
    `max_side`."""
    scale = min(short / min(height, width), max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def eval_view(height: int, width: int, config: DataConfig) -> View:
    """Return the view of evaluation: the whole image, resized."""
    return View(None, resized(height, width, config.eval_short_side, config.max_side))


def draw_view(height: int, width: int, config: DataConfig, rng: np.random.Generator) -> View:
    """Draw a training view as in DETR: flip, then a random size of the whole image or of a random crop.

    DETR resizes, crops and resizes again. Here the same window is cropped from the original and resized once:
    sharper and faster.
    """
    flip = bool(rng.random() < config.flip)
    cropped = config.random_crop and bool(rng.random() < 0.5)
    crop = _draw_crop(height, width, config, rng) if cropped else None
    short = int(rng.choice(config.short_sides))
    view_height, view_width = (height, width) if crop is None else crop[2:]
    return View(crop, resized(view_height, view_width, short, config.max_side), flip)


def _draw_crop(
    height: int, width: int, config: DataConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a crop, in pixels of the original."""
    unit = min(height, width) / float(rng.choice(MIDDLE_SIDES))
    smallest, largest = CROP_SIDES[0] * unit, CROP_SIDES[1] * unit
    if config.crop_keeps_shape:
        share = rng.uniform(smallest, min(largest, min(height, width))) / min(height, width)
        crop_height, crop_width = max(1, round(height * share)), max(1, round(width * share))
    else:
        crop_height = max(1, round(rng.uniform(smallest, min(largest, height))))
        crop_width = max(1, round(rng.uniform(smallest, min(largest, width))))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    return top, left, crop_height, crop_width


def apply_to_image(image: Tensor, view: View) -> Tensor:
    """Return the view of an image: (3, H, W) uint8 -> (3, *view.size) uint8."""
    if view.crop is not None:
        image = F.crop_image(image, *view.crop)
    if tuple(image.shape[-2:]) != view.size:
        image = F.resize_image(image, list(view.size), antialias=True)
    return F.horizontal_flip_image(image) if view.flip else image


def apply_to_boxes(boxes_xyxy: Tensor, height: int, width: int, view: View) -> tuple[Tensor, Tensor]:
    """Return the boxes of a view, (K, 4) float32 cxcywh in [0, 1], and their rows in the input, (K,) int64.

    Boxes without area in the view are dropped: select concepts and embeddings by the returned rows.
    boxes_xyxy: (M, 4), pixels of the (height, width) image.
    """
    top, left, view_height, view_width = view.crop or (0, 0, height, width)
    boxes: Tensor = tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=(height, width))
    if view.crop is not None:
        boxes = F.crop(boxes, top, left, view_height, view_width)
    boxes = F.clamp_bounding_boxes(boxes)
    if view.flip:
        boxes = F.horizontal_flip(boxes)
    corners = boxes.as_subclass(Tensor)
    rows = ((corners[:, 2:] - corners[:, :2]) > 0).all(1).nonzero()[:, 0]
    corners = corners[rows] / corners.new_tensor([view_width, view_height, view_width, view_height])
    centre, side = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return torch.cat([centre, side], 1).float(), rows


def pad_batch(images: Sequence[Tensor], shape: tuple[int, int] | None = None) -> tuple[Tensor, Tensor | None]:
    """Pad images of several sizes to one batch.

    images: B of (3, h, w) uint8. shape: (H, W); None for the largest sides. Returns (B, 3, H, W) uint8, with
    zeros to the right and below each image, and padding (B, H, W) bool, True in the padding; None if no image
    needs padding.
    """
    sizes = {tuple(image.shape[-2:]) for image in images}
    height, width = shape or (max(h for h, _ in sizes), max(w for _, w in sizes))
    if sizes == {(height, width)}:
        return torch.stack(list(images)), None
    device = images[0].device
    batch = torch.zeros(len(images), 3, height, width, dtype=torch.uint8, device=device)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=device)
    for row, image in enumerate(images):
        _, h, w = image.shape
        batch[row, :, :h, :w] = image
        padding[row, :h, :w] = False
    return batch, padding


@lru_cache(maxsize=8)
def _mean_and_scale(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and factor for uint8 channels, (3, 1, 1) each; cached, so that no step copies to the
    GPU."""
    with torch.inference_mode(False):
        centre = torch.tensor(mean, device=device).view(3, 1, 1) * 255
        return centre, 1 / (torch.tensor(std, device=device).view(3, 1, 1) * 255)


def normalise(images: Tensor, padding: Tensor | None, config: DataConfig) -> Tensor:
    """Return (x / 255 - mean) / std of (B, 3, H, W) uint8 images, float32; 0, the mean colour, in the
    padding."""
    mean, scale = _mean_and_scale(config.mean, config.std, images.device)
    normal = images.float().sub_(mean).mul_(scale)
    return normal if padding is None else normal.masked_fill_(padding[:, None], 0.0)
