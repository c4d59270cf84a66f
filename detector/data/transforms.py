"""Views of a photo: flip, crop, resize, normalise, pad.

A `View` is decided first (from the photo's size and a generator) and applied after, so that what was drawn
can be tested, repeated and applied to anything that belongs to the photo. Images stay uint8 until
`normalise`, which works on the whole batch on its device: a quarter of the bytes to move.

Sizes are (height, width) in pixels. Boxes come in as box_xyxy in pixels of the original photo and leave as
box_cxcywh in [0, 1] of the view.
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
"""DETR's crop stage: the short side before the cut, as a share of the largest side (400 to 600 of 800)."""
CROP_SIDES = (0.48, 0.75)
"""DETR's crop stage: least and greatest side of the cut, in the same unit (384 and 600 of 800)."""


@dataclass(frozen=True)
class View:
    """What of a photo is looked at, and how large.

    crop is (top, left, height, width) in pixels of the original, or None for the whole of it; size is
    (height, width) after resizing; flip mirrors left and right, after the crop.
    """

    crop: tuple[int, int, int, int] | None
    size: tuple[int, int]
    flip: bool = False


def resized(height: int, width: int, short: int, max_side: int) -> tuple[int, int]:
    """The (height, width) whose short side is `short`, or less where the long side would pass `max_side`."""
    least, most = min(height, width), max(height, width)
    scale = min(short / least, max_side / most)
    return max(1, round(height * scale)), max(1, round(width * scale))


def eval_view(height: int, width: int, config: DataConfig) -> View:
    """The whole photo at the evaluation size."""
    return View(None, resized(height, width, config.eval_short_side, config.max_side))


def draw_view(height: int, width: int, config: DataConfig, rng: np.random.Generator) -> View:
    """A training view, as DETR draws it: flip, then a random size of the whole photo or of a random cut.

    DETR resizes, cuts and resizes again; here the cut is taken from the original at the size that chain would
    give, and resized once: the same windows, sharper and cheaper.
    """
    flip = bool(rng.random() < config.flip)
    cuts = config.random_crop and bool(rng.random() < 0.5)
    crop = _draw_crop(height, width, config, rng) if cuts else None
    short = int(rng.choice(config.short_sides))
    seen_height, seen_width = (height, width) if crop is None else crop[2:]
    return View(crop, resized(seen_height, seen_width, short, config.max_side), flip)


def _draw_crop(
    height: int, width: int, config: DataConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a cut, in pixels of the original."""
    pixel = min(height, width) / float(rng.choice(MIDDLE_SIDES))
    least, most = CROP_SIDES[0] * pixel, CROP_SIDES[1] * pixel
    if config.crop_keeps_shape:
        share = rng.uniform(least, min(most, min(height, width))) / min(height, width)
        cut_height, cut_width = max(1, round(height * share)), max(1, round(width * share))
    else:
        cut_height = max(1, round(rng.uniform(least, min(most, height))))
        cut_width = max(1, round(rng.uniform(least, min(most, width))))
    top = int(rng.integers(height - cut_height + 1))
    left = int(rng.integers(width - cut_width + 1))
    return top, left, cut_height, cut_width


def apply_to_image(image: Tensor, view: View) -> Tensor:
    """image: (3, H, W) uint8 -> (3, *view.size) uint8."""
    if view.crop is not None:
        image = F.crop_image(image, *view.crop)
    if tuple(image.shape[-2:]) != view.size:
        image = F.resize_image(image, list(view.size), antialias=True)
    return F.horizontal_flip_image(image) if view.flip else image


def apply_to_boxes(boxes_xyxy: Tensor, height: int, width: int, view: View) -> tuple[Tensor, Tensor]:
    """Boxes of an (height, width) photo as the view shows them.

    boxes_xyxy: (M, 4) pixels. Returns box_cxcywh (K, 4) float32 in [0, 1] of the view, and the rows
    (K,) int64 of the boxes that kept some area: a box's concept and embedding are taken by these rows.
    """
    top, left, seen_height, seen_width = view.crop or (0, 0, height, width)
    boxes: Tensor = tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=(height, width))
    if view.crop is not None:
        boxes = F.crop(boxes, top, left, seen_height, seen_width)
    boxes = F.clamp_bounding_boxes(boxes)
    if view.flip:
        boxes = F.horizontal_flip(boxes)
    corners = boxes.as_subclass(Tensor)
    rows = ((corners[:, 2:] - corners[:, :2]) > 0).all(1).nonzero()[:, 0]
    corners = corners[rows] / corners.new_tensor([seen_width, seen_height, seen_width, seen_height])
    centre, side = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return torch.cat([centre, side], 1).float(), rows


def pad_batch(images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Photos of several sizes as one batch.

    images: B of (3, h, w) uint8. Returns (B, 3, H, W) uint8, each photo in its upper left corner and zeros
    elsewhere, and padding (B, H, W) bool, True where there is no photo; None where all photos have one size.
    """
    sizes = {tuple(image.shape[-2:]) for image in images}
    if len(sizes) == 1:
        return torch.stack(list(images)), None
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    place = images[0].device
    batch = torch.zeros(len(images), 3, height, width, dtype=torch.uint8, device=place)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=place)
    for row, image in enumerate(images):
        _, h, w = image.shape
        batch[row, :, :h, :w] = image
        padding[row, :h, :w] = False
    return batch, padding


@lru_cache(maxsize=8)
def _mean_and_scale(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """For uint8 channels, (3, 1, 1) each; kept, so that no step waits for a copy to its GPU."""
    with torch.inference_mode(False):
        centre = torch.tensor(mean, device=device).view(3, 1, 1) * 255
        return centre, 1 / (torch.tensor(std, device=device).view(3, 1, 1) * 255)


def normalise(images: Tensor, padding: Tensor | None, config: DataConfig) -> Tensor:
    """(B, 3, H, W) uint8 -> float32, (x / 255 - mean) / std by channel; zero, the mean colour, on padding."""
    mean, scale = _mean_and_scale(config.mean, config.std, images.device)
    normal = images.float().sub_(mean).mul_(scale)
    return normal if padding is None else normal.masked_fill_(padding[:, None], 0.0)
