"""The column `crops`: every annotated box as the teacher sees it (METHOD.md section 3, "Crops")."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.fast_pixels import agreement_of, as_pixels, fast_pixels
from cckt.cache_builder.columns.images import encoder, teacher_recipe
from cckt.cache_builder.columns.options import Making, Options
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.columns.views import jittered_boxes, view_recipe
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnName, ColumnSpec, check_label, open_writer
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.preprocess import Preprocess

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

PLAIN = ColumnName("crops")


def cache_crops(
    data: Path,
    teacher: str | Teacher,
    *,
    crop: str = "box",
    view: str = "",
    name: str = "",
    fast: bool = False,
    **options: Unpack[Options],
) -> CacheReport:
    """Make the column `crops` of the data set `data`: (M, D) float16 unit, row m the pixels at box m.

    crop: "box", the rectangle (the default, and the paper's), or "square", the context square round its
    centre; see `crop_rectangles`. A crop goes through the teacher's own preprocessing. Rows of crowds and of
    boxes under 16 px on either side are invalid (zeros, flag 0). Each photo is decoded once a chunk, crops
    of several photos share a batch. view: "flipped" makes the column `crops-flipped`, every crop mirrored,
    "jitter-K" the column `crops-jitter-K` of boxes moved and scaled a little; several views from one decoding
    are `cache_photos`. name, fast: as in `cache_images`. options: how it is made, see `Making`.

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    making = Making(**options)
    check_rule(crop)
    index = open_index(data)
    check_photos(index, photos_with_crops(index))
    known = making.teacher(teacher)
    column = ColumnName("crops", check_label(name), view)
    spec = crops_spec(index, known, crop, making.batch, making.chunk_rows, column, fast)
    writer = open_writer(making.place(data), spec, overwrite=making.overwrite)
    reader = crop_reader(index, known, crop, view, fast, making.strict)
    run = run_chunks(
        writer,
        reader,
        encoder(known),
        batch=making.batch,
        spans=lambda lo, hi: photo_spans(index.box_images[lo:hi], lo),
        unit="boxes",
        **making.reading,
    )
    agreed = None
    if fast:
        agreed = agreement_of(making.place(data), run.manifest, replace(reader, fast=False), known)
    return report_of(
        writer,
        run,
        making.reporter,
        strict=making.strict,
        expected=(CROWD, SMALL),
        agreement=agreed,
        photos=len(photos_with_crops(index)),
    )


@dataclass(frozen=True)
class CropReader:
    """Reads rows of `crops` and of its views: each the teacher's (3, S, S) uint8 pixels of a box. Picklable.

    fast: near the teacher's preprocessing and not equal to it. on_device: then leave the resize to the
    device; the data are uint8 pixels (3, h, w) of any size.
    """

    index: Index
    preprocess: Preprocess
    crop: str = "box"
    strict: bool = False
    view: str = ""
    fast: bool = False
    on_device: bool = False

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Items of the box rows [lo, hi) of one photo, which is decoded only if a box has an embedding."""
        photo: Image.Image | str = ""
        if usable_boxes(self.index, lo, hi).any():
            image = int(self.index.box_images[lo])
            photo = load_or_reason(self.index, image, strict=self.strict, reduction=self.reduction(image))
        return self.items(lo, hi, photo)

    def items(self, lo: int, hi: int, photo: Image.Image | Tensor | str) -> list[Item]:
        """The same for a photo that was decoded already (`as_pixels` of it is fine too), or is bad for the
        reason given.
        """
        usable, crowd = usable_boxes(self.index, lo, hi), self.index.iscrowd[lo:hi]
        items = [
            Item(row, reason=CROWD if crowd[row - lo] else SMALL)
            for row in (lo + np.flatnonzero(~usable)).tolist()
        ]
        rows = lo + np.flatnonzero(usable)
        if isinstance(photo, str):
            return items + [Item(row, reason=photo) for row in rows.tolist()]
        if not len(rows):
            return items
        flipped = self.view == "flipped"
        if self.fast:
            pixels = as_pixels(photo)
            for row, part in zip(rows.tolist(), self._parts(rows, pixels), strict=True):
                items.append(Item(row, fast_pixels(self.preprocess, part, self.on_device, flipped)))
            return items
        assert isinstance(photo, Image.Image)
        for row, (left, top, right, bottom) in zip(
            rows.tolist(), self._rectangles(rows).tolist(), strict=True
        ):
            crop = photo.crop((left, top, right, bottom))
            if flipped:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            items.append(Item(row, self.preprocess.pixels(crop)))
        return items

    def reduction(self, image: int) -> int:
        """At which 1/n a JPEG may be decoded for all crops of an image row, whatever the chunk."""
        boxes = self.index.boxes_of(image)
        if not self.fast:
            return 1
        rows = boxes.start + np.flatnonzero(usable_boxes(self.index, boxes.start, boxes.stop))
        rectangles = self._rectangles(rows)
        return self.preprocess.reduction(rectangles[:, 2:] - rectangles[:, :2])

    def _rectangles(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 4) whole pixels of the photo in full size, of box rows (n,) of one photo."""
        if not len(rows):
            return np.zeros((0, 4), np.int64)
        image = int(self.index.box_images[rows[0]])
        size = int(self.index.widths[image]), int(self.index.heights[image])
        number = ColumnName("crops", view=self.view).jitter
        boxes = jittered_boxes(self.index, rows, number) if number else self.index.box_xyxy[rows]
        return crop_rectangles(boxes, size, self.crop)

    def _parts(self, rows: NDArray[np.int64], pixels: Tensor) -> Iterator[Tensor]:
        """Views of the photo (3, H, W), which may be a reduced one."""
        image = int(self.index.box_images[rows[0]])
        full = np.array([self.index.widths[image], self.index.heights[image]] * 2)
        shown = np.array([pixels.shape[2], pixels.shape[1]] * 2)
        rectangles = self._rectangles(rows)
        if (full != shown).any():
            rectangles = np.rint(rectangles * (shown / full)).astype(np.int64)
        for left, top, right, bottom in rectangles.tolist():
            yield pixels[:, top:bottom, left:right]


def crop_reader(
    index: Index, teacher: Teacher, crop: str, view: str = "", fast: bool = False, strict: bool = False
) -> CropReader:
    """The reader for a teacher; CUDA resizes by itself."""
    on_device = fast and teacher.device.type == "cuda"
    return CropReader(index, teacher.preprocess, crop, strict, view, fast, on_device)


def crops_spec(
    index: Index,
    teacher: Teacher,
    crop: str,
    batch: int,
    chunk_rows: int,
    name: ColumnName = PLAIN,
    fast: bool = False,
) -> ColumnSpec:
    """What the column is."""
    return ColumnSpec(
        name=str(name),
        table="boxes",
        rows=len(index.box_images),
        width=teacher.width,
        has_valid=True,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={**teacher_recipe(teacher, batch, fast), "crop": RULES[crop], **view_recipe(name)},
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


def photos_with_crops(index: Index) -> NDArray[np.int32]:
    """Return the ascending image rows with at least one box that gets an embedding."""
    return np.unique(index.box_images[usable_boxes(index)])


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
