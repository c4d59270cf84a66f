"""Mosaics: four photos in the quarters of one, with the targets of all four (docs/method/cckt_det.md, section
9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cckt.detector.config.config import DataConfig
from cckt.detector.data.schedule import MOSAIC, Place, generator
from cckt.detector.data.transforms import View
from cckt.detector.students.targets import Targets, TeacherRows

PHOTOS = 4


@dataclass(frozen=True)
class Seen:
    """One photo as a view shows it."""

    image: Tensor
    """(3, h, w) uint8."""
    targets: Targets
    given: NDArray[np.int64]
    """Base rows that may guide it, before noise."""
    fault: str
    """Why its file cannot be read; of a mosaic, a line for each photo with a fault."""


def others_of(place: Place, rows: NDArray[np.int64], options: DataConfig, seed: int) -> NDArray[np.int64]:
    """Return the image rows of the three other photos of a mosaic; none if the sample is no mosaic.

    rows: image rows to choose from.
    """
    if not options.mosaic or (options.mosaic_epochs and place.epoch >= options.mosaic_epochs):
        return rows[:0]
    random = generator(seed, MOSAIC, place.epoch, place.position)
    if random.random() >= options.mosaic:
        return rows[:0]
    return random.choice(rows, PHOTOS - 1)


def quarters(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (height, width) of the quarters of an image: the upper left and right, the lower left and
    right."""
    (height, width), (above, left) = size, (size[0] // 2, size[1] // 2)
    return [(h, w) for h in (above, height - above) for w in (left, width - left)]


def fitting(view: View, quarter: tuple[int, int]) -> View:
    """Return the view in the largest size of its shape that fits into a quarter."""
    scale = min(room / side for room, side in zip(quarter, view.size, strict=True))
    height, width = (
        max(1, min(room, int(side * scale))) for room, side in zip(quarter, view.size, strict=True)
    )
    return View(view.crop, (height, width), view.flip)


def joined(parts: Sequence[Seen], size: tuple[int, int], mean: Sequence[float]) -> Seen:
    """Return four photos as one of `size` (height, width), each in its quarter, next to the centre.

    What is left has the mean colour. Objects follow in the order of the photos, with their teacher rows. A
    mosaic has no embedding of the whole image: rows of scope "image" are not valid.
    """
    height, width = size
    above, left = height // 2, width // 2
    colour = torch.tensor([round(255 * one) for one in mean], dtype=torch.uint8)
    canvas = colour[:, None, None].expand(3, height, width).clone()
    boxes = []
    for number, part in enumerate(parts):
        h, w = part.image.shape[-2:]
        top = above - h if number < 2 else above
        start = left - w if number % 2 == 0 else left
        canvas[:, top : top + h, start : start + w] = part.image
        own = part.targets.boxes * torch.tensor([w, h, w, h])
        own = own + torch.tensor([start, top, 0, 0])
        boxes.append(own / torch.tensor([width, height, width, height]))
    every = [part.targets for part in parts]
    targets = Targets(
        torch.cat(boxes).float(),
        torch.cat([one.concepts for one in every]),
        {name: _joined_rows([one.teacher[name] for one in every]) for name in every[0].teacher},
    )
    given = np.unique(np.concatenate([part.given for part in parts])).astype(np.int64)
    return Seen(canvas, targets, given, "\n".join(part.fault for part in parts if part.fault))


def _joined_rows(rows: Sequence[TeacherRows]) -> TeacherRows:
    first = rows[0]
    if first.scope == "image":
        return replace(first, valid=torch.zeros_like(first.valid))
    values, valid = torch.cat([one.values for one in rows]), torch.cat([one.valid for one in rows])
    return replace(first, values=values, valid=valid)
