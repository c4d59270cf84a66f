"""Pixels of `--fast`, resized near the teacher's way, and the agreement of their embeddings."""

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
"""Rows that are made exactly as well, to measure the agreement."""


def as_pixels(photo: Image.Image | Tensor) -> Tensor:
    """Return a photo as (3, H, W) uint8, channels last in memory, which resizes fastest."""
    if isinstance(photo, Tensor):
        return photo
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def fast_pixels(
    preprocess: Preprocess, part: Tensor, on_device: bool, flipped: bool = False
) -> NDArray[np.uint8]:
    """Return a part (3, h, w) of a photo as (3, S, S) uint8, or only cut if the device resizes."""
    part = preprocess.cut(part)
    if not on_device:
        part = preprocess.resized(part)
    if flipped:
        part = part.flip(-1)
    return np.ascontiguousarray(part.numpy())


def stacked(preprocess: Preprocess, parts: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Return the items of one batch as (B, 3, S, S) uint8; other sizes are resized on `device`."""
    if all(part.shape == preprocess.shape for part in parts):
        return torch.from_numpy(np.stack(parts))
    moved = (torch.from_numpy(part).to(device, non_blocking=True) for part in parts)
    return torch.stack([preprocess.resized(part) for part in moved])


def agreement_of(
    data: Path | str, manifest: Manifest | None, exact: Callable[[int, int], Iterable[Item]], teacher: Teacher
) -> Agreement | None:
    """Return the agreement of a finished column with the exact rows.

    SAMPLE valid rows, drawn with a fixed seed, are made again by the reader `exact`. None for an unfinished
    column (manifest None) and for one without a valid row.
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
        if item.data is not None  # else the photo has become unreadable
    ]
    if not pairs:
        return None
    made = teacher.encode_images(np.stack([pixels for _, pixels in pairs]))
    return agreement(column.take([row for row, _ in pairs]), made)
