"""The column `images`: the teacher's embedding of every whole image (docs/method/cckt_det.md, eq. 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cckt.cache_builder.columns.fast_pixels import agreement_of, as_pixels, fast_pixels, stacked
from cckt.cache_builder.columns.growth.begin import require_same_bytes
from cckt.cache_builder.columns.growth.donor import Donor
from cckt.cache_builder.columns.options import Making, Options
from cckt.cache_builder.columns.remake import Made, Remake, remake_from_photos
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnName, ColumnSpec, check_label, column_spec
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.preprocess import FAST, Preprocess

PHOTOS_PER_SPAN = 8
"""Photos that a worker reads at a time: few, so that small data sets are shared among workers."""


def cache_images(
    data: Path,
    teacher: str | Teacher,
    *,
    name: str = "",
    fast: bool = False,
    **options: Unpack[Options],
) -> CacheReport:
    """Make the column `images` of the data set `data`: (I, D) float16 unit, row i for image row i.

    teacher: a name for `load_teacher`, or a loaded one (then `device` and `precision` do not apply). Images
    go through the teacher's preprocessing. A photo that cannot be read leaves an invalid row and a note.

    name: label of a second teacher; the column is `images-NAME`. fast: decode and resize near the teacher's
    way instead of exactly; the report states the agreement. options: see `Making`.

    After a kill the same call resumes. Raises UserError for what the user can correct.
    """
    making = Making(**options)
    index = open_index(data)
    check_photos(index)
    loaded = making.teacher(teacher)
    spec = images_spec(index, loaded, making.batch, making.chunk_rows, check_label(name), fast)
    growth = making.begin(data, spec, index)
    reader = image_reader(index, loaded, fast, making.strict)
    donor, writer = growth.donor, growth.writer
    require_same_bytes(growth, reader, encoder(loaded, making.batch), making.reuse)
    run = run_chunks(
        writer,
        reader if donor is None else CopyingReader(reader, donor),
        encoder(loaded, making.batch),
        batch=making.batch,
        independent=True,
        spans=_spans,
        unit="photos",
        **making.reading,
    )
    agreed = None
    if fast:
        agreed = agreement_of(growth.readable, run.manifest, replace(reader, fast=False), loaded)
    growth.finish(run.manifest)
    return report_of(writer, run, making.reporter, strict=making.strict, agreement=agreed, photos=len(index))


@dataclass(frozen=True)
class ImageReader:
    """Reads rows of `images`: the teacher's (3, S, S) uint8 pixels of an image. Picklable.

    fast, on_device: see `CropReader`.
    """

    index: Index
    preprocess: Preprocess
    strict: bool = False
    fast: bool = False
    on_device: bool = False

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Yield the items of image rows [lo, hi)."""
        for image in range(lo, hi):
            reduction = self.reduction(image)
            photo = load_or_reason(self.index, image, strict=self.strict, reduction=reduction)
            yield self.item(image, photo)

    def item(self, image: int, photo: Image.Image | Tensor | str) -> Item:
        """Return the item of an image row; photo: decoded, or the reason why it cannot be."""
        if isinstance(photo, str):
            return Item(image, reason=photo)
        if self.fast:
            return Item(image, fast_pixels(self.preprocess, as_pixels(photo), self.on_device))
        assert isinstance(photo, Image.Image)
        return Item(image, self.preprocess.pixels(photo))

    def reduction(self, image: int) -> int:
        """Return n such that the JPEG of an image row may be decoded at 1/n of its size."""
        sides = np.array([[self.index.widths[image], self.index.heights[image]]], np.float64)
        return self.preprocess.reduction(sides) if self.fast else 1


@dataclass(frozen=True)
class CopyingReader:
    """Copies rows from an older column where it can, and reads the others. Picklable.

    reader: an `ImageReader` or a `CropReader`, called with ranges of rows of one photo.
    """

    reader: Callable[[int, int], Iterable[Item]]
    donor: Donor

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Yield the items of rows [lo, hi)."""
        copied, ranges, needed = self.donor.split(lo, hi)
        yield from copied
        for start, stop in ranges:
            yield from (item for item in self.reader(start, stop) if item.row in needed)


def image_reader(index: Index, teacher: Teacher, fast: bool = False, strict: bool = False) -> ImageReader:
    """Return the reader for a teacher; on CUDA the device resizes."""
    return ImageReader(index, teacher.preprocess, strict, fast, fast and teacher.device.type == "cuda")


def images_spec(
    index: Index, teacher: Teacher, batch: int, chunk_rows: int, label: str = "", fast: bool = False
) -> ColumnSpec:
    """Return the spec of the column."""
    return column_spec(
        ColumnName("images", label),
        rows=len(index),
        width=teacher.width,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={**teacher_recipe(teacher, batch, fast), "source": "whole photo"},
    )


def teacher_recipe(teacher: Teacher, batch: int, fast: bool = False) -> dict[str, Any]:
    """Return the part of a recipe that columns of image embeddings share.

    `batch` belongs to it, because the last bits of a teacher's floats depend on the shape of the batch. A
    shorter batch is filled up to that shape (`Teacher.launch_images`), so that they do not depend on the
    other rows: a row that is made in another column of the same recipe has the same bytes.
    """
    return {
        "teacher": teacher.recipe(),
        "preprocessing": teacher.preprocess_recipe(),
        "normalisation": "unit",
        "batch": batch,
        "filled": "zeros",
        **({"fast": FAST} if fast else {}),
    }


def encoder(
    teacher: Teacher, batch: int
) -> Callable[[list[NDArray[np.uint8]]], Callable[[], NDArray[np.float32]]]:
    """Return the runner's map: uint8 pixels of n <= batch rows -> a function that waits for (n, D) float32.

    The pixels are (3, S, S), or of any size if `fast_pixels` left the resize to the device.
    """

    def encode(pixels: Sequence[NDArray[np.uint8]]) -> Callable[[], NDArray[np.float32]]:
        return teacher.launch_images(stacked(teacher.preprocess, pixels, teacher.device), batch)

    return encode


def remake_images(made: Made) -> Remake | None:
    """See `recompute.REMAKE`."""
    teacher = made.teacher()
    if teacher is None:
        return None
    reader = ImageReader(made.index, teacher.preprocess, fast="fast" in made.spec.recipe)
    batch = made.spec.recipe["batch"]
    return remake_from_photos(teacher, reader, encoder(teacher, batch), batch)


def _spans(lo: int, hi: int) -> list[tuple[int, int]]:
    return [(start, min(start + PHOTOS_PER_SPAN, hi)) for start in range(lo, hi, PHOTOS_PER_SPAN)]
