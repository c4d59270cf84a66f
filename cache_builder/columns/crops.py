"""The column `crops`: the teacher's embedding of every annotated box (docs/method/cckt_det.md, eq. 2)."""

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

from cckt.cache_builder.base.constants import CROP
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.fast_pixels import agreement_of, as_pixels, fast_pixels
from cckt.cache_builder.columns.growth.begin import require_same_bytes
from cckt.cache_builder.columns.images import CopyingReader, encoder, teacher_recipe
from cckt.cache_builder.columns.options import Making, Options
from cckt.cache_builder.columns.remake import Made, Remake, remake_from_photos
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.columns.views import jittered_boxes, view_recipe
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnName, ColumnSpec, check_label, column_spec
from cckt.cache_builder.store.kinds import FLIPPED
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.preprocess import Preprocess

MIN_SIDE = 16.0
"""Shortest side of a box with an embedding, in pixels before rounding."""

CONTEXT = 8.0
"""Area of a context square over the area of its box; docs/method/cckt_det.md, eq. 3."""

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
    crop: str = CROP,
    view: str = "",
    name: str = "",
    fast: bool = False,
    **options: Unpack[Options],
) -> CacheReport:
    """Make the column `crops` of the data set `data`: (M, D) float16 unit, row m for box m.

    crop: "box", the rectangle (the default and the paper's rule), or "square", the context square around its
    centre; see `crop_rectangles`. Crops go through the teacher's preprocessing. Rows of crowds and of boxes
    under 16 px on a side are invalid (zeros, flag 0). Each photo is decoded once for each chunk; crops of
    several photos share a batch. view: "flipped" makes the column `crops-flipped` of mirrored crops,
    "jitter-K" the column `crops-jitter-K` of boxes moved and scaled; `cache_photos` makes several views from
    one decoding. name, fast: see `cache_images`. options: see `Making`.

    After a kill the same call resumes. Raises UserError for what the user can correct.
    """
    making = Making(**options)
    check_rule(crop)
    index = open_index(data)
    check_photos(index, photos_with_crops(index))
    loaded = making.teacher(teacher)
    column = ColumnName("crops", check_label(name), view)
    spec = crops_spec(index, loaded, crop, making.batch, making.chunk_rows, column, fast)
    growth = making.begin(data, spec, index)
    reader = crop_reader(index, loaded, crop, view, fast, making.strict)
    donor, writer = growth.donor, growth.writer
    if donor is not None and fast:
        donor.reduction = reader.reduction_of
    require_same_bytes(growth, reader, encoder(loaded, making.batch), making.reuse)

    def spans(lo: int, hi: int) -> list[tuple[int, int]]:
        found = photo_spans(index.box_images[lo:hi], lo)
        return donor.long_spans(found) if donor is not None else found

    run = run_chunks(
        writer,
        reader if donor is None else CopyingReader(reader, donor),
        encoder(loaded, making.batch),
        batch=making.batch,
        independent=True,
        spans=spans,
        unit="boxes",
        **making.reading,
    )
    agreed = None
    if fast:
        agreed = agreement_of(growth.readable, run.manifest, replace(reader, fast=False), loaded)
    growth.finish(run.manifest)
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
    """Reads rows of `crops` and of its views: the teacher's (3, S, S) uint8 pixels of a box. Picklable.

    fast: near the teacher's preprocessing, not equal to it. on_device: with `fast`, leave the resize to the
    device; the data are uint8 pixels (3, h, w) of any size.
    """

    index: Index
    preprocess: Preprocess
    crop: str = CROP
    strict: bool = False
    view: str = ""
    fast: bool = False
    on_device: bool = False

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Return the items of box rows [lo, hi) of one photo, decoded only if a box has an embedding."""
        photo: Image.Image | str = ""
        if usable_boxes(self.index, lo, hi).any():
            image = int(self.index.box_images[lo])
            photo = load_or_reason(self.index, image, strict=self.strict, reduction=self.reduction(image))
        return self.items(lo, hi, photo)

    def items(self, lo: int, hi: int, photo: Image.Image | Tensor | str) -> list[Item]:
        """Return the same items; photo: decoded (an image, or `as_pixels` of it), or why it cannot be."""
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
        flipped = self.view == FLIPPED
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

    def reduction_of(self, index: Index, image: int) -> int:
        """Return `reduction` for an image row of another index."""
        return replace(self, index=index).reduction(image)

    def reduction(self, image: int) -> int:
        """Return n such that the JPEG of an image row may be decoded at 1/n for all its crops."""
        boxes = self.index.boxes_of(image)
        if not self.fast:
            return 1
        rows = boxes.start + np.flatnonzero(usable_boxes(self.index, boxes.start, boxes.stop))
        rectangles = self._rectangles(rows)
        return self.preprocess.reduction(rectangles[:, 2:] - rectangles[:, :2])

    def _rectangles(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 4) rectangles of box rows (n,) of one photo, in whole pixels of its full size."""
        if not len(rows):
            return np.zeros((0, 4), np.int64)
        image = int(self.index.box_images[rows[0]])
        size = int(self.index.widths[image]), int(self.index.heights[image])
        number = ColumnName("crops", view=self.view).jitter
        boxes = jittered_boxes(self.index, rows, number) if number else self.index.box_xyxy[rows]
        return crop_rectangles(boxes, size, self.crop)

    def _parts(self, rows: NDArray[np.int64], pixels: Tensor) -> Iterator[Tensor]:
        """Views into the photo (3, H, W), which may be reduced in size."""
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
    """Return the reader for a teacher; on CUDA the device resizes."""
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
    """Return the spec of the column."""
    return column_spec(
        name,
        rows=len(index.box_images),
        width=teacher.width,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={**teacher_recipe(teacher, batch, fast), "crop": RULES[crop], **view_recipe(name)},
    )


def remake_crops(made: Made) -> Remake | None:
    """See `recompute.REMAKE`."""
    teacher = made.teacher()
    if teacher is None:
        return None
    recipe = made.spec.recipe
    reader = CropReader(
        made.index, teacher.preprocess, recipe["crop"]["rule"], view=made.name.view, fast="fast" in recipe
    )
    return remake_from_photos(teacher, reader)


def check_rule(crop: str) -> None:
    """Raise UserError unless `crop` is a crop rule."""
    if crop not in RULES:
        raise UserError(f"--crop {crop} is not known; choose one of {', '.join(RULES)}.")


def usable_boxes(index: Index, lo: int = 0, hi: int | None = None) -> NDArray[np.bool_]:
    """Return (hi - lo,) bool: whether a box has an embedding, if its photo can be read.

    It is not a crowd and both sides are at least 16 px. The index has clipped the boxes to their photos.
    """
    boxes = index.box_xyxy[lo:hi]
    usable: NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1) & ~index.iscrowd[lo:hi]
    return usable


def photos_with_crops(index: Index) -> NDArray[np.int32]:
    """Return the ascending image rows with at least one box that gets an embedding."""
    return np.unique(index.box_images[usable_boxes(index)])


def crop_rectangles(boxes: NDArray[np.float64], size: tuple[int, int], rule: str = CROP) -> NDArray[np.int64]:
    """Return the rectangles of crops, (n, 4) int64 (left, top, right, bottom) in whole pixels.

    boxes: (n, 4) float64 xyxy in pixels. size: (width, height) of the photo; rectangles are inside it. right
    and bottom are exclusive.

    "box": the box, clipped to the photo and extended to whole pixels (floor, ceil), so that every pixel it
    touches is inside. "square": a square around the box's centre with side sqrt(8 * area), to the nearest
    pixel (docs/method/cckt_det.md, eq. 3), moved, not cut, to stay inside the photo; an axis shorter than the
    side is taken whole.
    """
    extent = np.asarray(size, np.float64)
    low, high = np.clip(boxes[:, :2], 0, extent), np.clip(boxes[:, 2:], 0, extent)
    if rule == "box":
        return np.concatenate([np.floor(low), np.ceil(high)], axis=1).astype(np.int64)
    assert rule == "square", f"expected a rule of {tuple(RULES)}, found {rule!r}"
    side = np.rint(np.sqrt(CONTEXT * (high - low).prod(axis=1, keepdims=True)))
    sides = np.clip(side, 1, extent)
    start = np.clip(np.rint((low + high - sides) / 2), 0, extent - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.int64)


def photo_spans(images: NDArray[np.int32], lo: int) -> list[tuple[int, int]]:
    """Return ranges of box rows that share a photo; images (n,): image rows of the boxes from row `lo` on."""
    cuts = [0, *(np.flatnonzero(np.diff(images)) + 1).tolist(), len(images)]
    return [(lo + start, lo + stop) for start, stop in itertools.pairwise(cuts) if start < stop]
