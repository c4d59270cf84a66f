"""The column `crops`: every annotated box as the teacher sees it (METHOD.md section 3, "Crops")."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache_builder.errors import UserError
from cache_builder.images import CHUNK_ROWS, as_teacher, check_numbers, encoder, teacher_recipe
from cache_builder.index import Index, open_index
from cache_builder.photos import check_folder, load_or_reason
from cache_builder.preprocess import Preprocess
from cache_builder.progress import Progress, Silent
from cache_builder.report import CacheReport, report_of
from cache_builder.runner import Item, run_chunks
from cache_builder.store import ColumnSpec, open_writer
from cache_builder.teacher import Teacher

MIN_SIDE = 16.0
"""Shortest side in pixels, before rounding, of a box that still gets an embedding."""

CONTEXT = 8.0
"""A context square has this many times the area of its box (HIERARCHICAL.md section 1, "Crops")."""

RULES = {
    "box": {
        "rule": "box",
        "rounding": "floor left and top, ceil right and bottom",
        "min_side": MIN_SIDE,
        "crowd": "invalid",
    },
    "square": {
        "rule": "square",
        "area": CONTEXT,
        "outside": "moved inside; an axis too short for it is taken whole",
        "rounding": "side to the nearest pixel",
        "min_side": MIN_SIDE,
        "crowd": "invalid",
    },
}
"""Crop rules by name, as a column's recipe holds them."""


CROWD = "the box is a crowd"
SMALL = f"the box is under {MIN_SIDE:.0f} px on a side"


def cache_crops(
    data: Path,
    teacher: str | Teacher,
    *,
    crop: str = "box",
    batch: int = 256,
    workers: int | None = None,
    processes: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    strict: bool = False,
    part: tuple[int, int] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CacheReport:
    """Make the column `crops` of the data set `data`: (M, D) float16 unit, row m the pixels at box m.

    crop: "box", the rectangle (the default, and the paper's), or "square", the context square round its
    centre; see `crop_rectangles`. A crop goes through the teacher's own preprocessing. Rows of crowds and of
    boxes under 16 px on either side are invalid (zeros, flag 0). Each photo is decoded once a chunk, crops
    of several photos share a batch. The other options are those of `cache_images`.

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    workers = check_numbers(batch, workers, part)
    check_rule(crop)
    index = open_index(data)
    check_folder(index)
    known = as_teacher(teacher, device, precision)
    progress = progress or Silent()
    writer = open_writer(data, crops_spec(index, known, crop, batch, chunk_rows), overwrite=overwrite)
    run = run_chunks(
        writer,
        CropReader(index, known.preprocess, crop, strict),
        encoder(known),
        batch=batch,
        spans=lambda lo, hi: photo_spans(index.box_images[lo:hi], lo),
        workers=workers,
        processes=processes,
        part=part,
        progress=progress,
        unit="boxes",
    )
    return report_of(writer, run, progress, strict=strict, expected=(CROWD, SMALL))


@dataclass(frozen=True)
class CropReader:
    """Reads rows of `crops`: each the teacher's (3, S, S) uint8 pixels of a box. Picklable."""

    index: Index
    preprocess: Preprocess
    crop: str = "box"
    strict: bool = False

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Items of the box rows [lo, hi) of one photo, which is decoded only if a box has an embedding."""
        wanted = usable_boxes(self.index, lo, hi).any()
        image = int(self.index.box_images[lo])
        return self.items(lo, hi, load_or_reason(self.index, image, strict=self.strict) if wanted else "")

    def items(self, lo: int, hi: int, photo: Image.Image | str) -> list[Item]:
        """The same for a photo that was decoded already, or is bad for the reason given."""
        usable, crowd = usable_boxes(self.index, lo, hi), self.index.iscrowd[lo:hi]
        items = [
            Item(row, reason=CROWD if crowd[row - lo] else SMALL)
            for row in (lo + np.flatnonzero(~usable)).tolist()
        ]
        rows = lo + np.flatnonzero(usable)
        if isinstance(photo, str):
            return items + [Item(row, reason=photo) for row in rows.tolist()]
        rectangles = crop_rectangles(self.index.box_xyxy[rows], photo.size, self.crop)
        for row, (left, top, right, bottom) in zip(rows.tolist(), rectangles.tolist(), strict=True):
            items.append(Item(row, self.preprocess.pixels(photo.crop((left, top, right, bottom)))))
        return items


def crops_spec(index: Index, teacher: Teacher, crop: str, batch: int, chunk_rows: int) -> ColumnSpec:
    """What the column is."""
    return ColumnSpec(
        name="crops",
        table="boxes",
        rows=len(index.box_images),
        width=teacher.width,
        has_valid=True,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={**teacher_recipe(teacher, batch), "crop": RULES[crop]},
    )


def check_rule(crop: str) -> None:
    """UserError for a crop rule that there is not."""
    if crop not in RULES:
        raise UserError(f"--crop {crop} is not known; choose one of {', '.join(RULES)}.")


def usable_boxes(index: Index, lo: int = 0, hi: int | None = None) -> NDArray[np.bool_]:
    """(hi - lo,) bool: box rows that get an embedding if their photo can be read.

    That is no crowd, and both sides at least 16 px. The index has clipped the boxes to their photos already.
    """
    boxes = index.box_xyxy[lo:hi]
    usable: NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1) & ~index.iscrowd[lo:hi]
    return usable


def crop_rectangles(
    boxes: NDArray[np.float64], size: tuple[int, int], rule: str = "box"
) -> NDArray[np.int64]:
    """(n, 4) int64 rectangles (left, top, right, bottom) in whole pixels, inside a photo of `size` (width,
    height).

    boxes: (n, 4) float64 xyxy in pixels. right and bottom are exclusive.

    "box": the box clipped to the photo, then widened to whole pixels (floor, ceil), so that every pixel that
    it touches is in. "square": side sqrt(8 * area) of the box, to the nearest pixel, round the box's centre
    and moved (not cut) to stay inside the photo; an axis that is shorter than the side is taken whole.
    """
    extent = np.asarray(size, np.float64)
    low, high = np.clip(boxes[:, :2], 0, extent), np.clip(boxes[:, 2:], 0, extent)
    if rule == "box":
        return np.concatenate([np.floor(low), np.ceil(high)], axis=1).astype(np.int64)
    assert rule == "square", rule
    side = np.rint(np.sqrt(CONTEXT * (high - low).prod(axis=1, keepdims=True)))
    sides = np.clip(side, 1, extent)
    start = np.clip(np.rint((low + high - sides) / 2), 0, extent - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.int64)


def photo_spans(images: NDArray[np.int32], lo: int) -> list[tuple[int, int]]:
    """Ranges of box rows that share a photo; `images` (n,): the image rows of the boxes from row `lo` on."""
    cuts = [0, *(np.flatnonzero(np.diff(images)) + 1).tolist(), len(images)]
    return [(lo + start, lo + stop) for start, stop in itertools.pairwise(cuts) if start < stop]
