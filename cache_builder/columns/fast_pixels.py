"""What `--fast` does with pixels, and the measure of what it costs in likeness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cckt.cache_builder.runner import Item
from cckt.cache_builder.store import Agreement, Manifest, open_column
from cckt.cache_builder.store.agreement import agreement
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.preprocess import Preprocess

SAMPLE = 64
"""Rows that are made again exactly, to say how near the fast ones are."""


def as_pixels(photo: Image.Image | Tensor) -> Tensor:
    """(3, H, W) uint8, channels last in memory, as the resize is fastest with; a tensor stays as it is."""
    if isinstance(photo, Tensor):
        return photo
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def fast_pixels(
    preprocess: Preprocess, part: Tensor, on_device: bool, flipped: bool = False
) -> NDArray[np.uint8]:
    """A part (3, h, w) of a photo as an item's data: (3, S, S) uint8, only cut where the device resizes."""
    part = preprocess.cut(part)
    if not on_device:
        part = preprocess.resized(part)
    if flipped:
        part = part.flip(-1)
    return np.ascontiguousarray(part.numpy())


def stacked(preprocess: Preprocess, parts: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Item data of one batch -> (B, 3, S, S) uint8; parts that are not of that size yet are resized on
    `device`.
    """
    if all(part.shape == preprocess.shape for part in parts):
        return torch.from_numpy(np.stack(parts))
    moved = (torch.from_numpy(part).to(device, non_blocking=True) for part in parts)
    return torch.stack([preprocess.resized(part) for part in moved])


def agreement_of(
    data: Path | str, manifest: Manifest | None, exact: Callable[[int, int], Iterable[Item]], teacher: Teacher
) -> Agreement | None:
    """How near the rows of a finished column are to the exact ones: SAMPLE valid rows, drawn by a fixed seed,
    made again by the reader `exact`. None while it is not finished, or without a valid row.
    """
    if manifest is None:
        return None
    column = open_column(data, manifest.spec.name)
    valid = np.flatnonzero(column.valid_all())
    rows = np.sort(np.random.default_rng(0).permutation(valid)[:SAMPLE])
    pairs: list[tuple[int, Any]] = [
        (item.row, item.data)
        for row in rows.tolist()
        for item in exact(row, row + 1)
        if item.data is not None  # the photo went bad since
    ]
    if not pairs:
        return None
    again = teacher.encode_images(np.stack([pixels for _, pixels in pairs]))
    return agreement(column.take([row for row, _ in pairs]), again)
