"""The column `images`: every whole photo as the teacher sees it (METHOD.md section 3, "Image embeddings")."""

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
from cckt.cache_builder.columns.options import Making, Options
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnName, ColumnSpec, check_label, open_writer
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.preprocess import FAST, Preprocess

PHOTOS_A_SPAN = 8  # read in one go by a worker: few enough to share small data sets among workers


def cache_images(
    data: Path,
    teacher: str | Teacher,
    *,
    name: str = "",
    fast: bool = False,
    **options: Unpack[Options],
) -> CacheReport:
    """Make the column `images` of the data set `data`: (I, D) float16 unit, row i the photo of image row i.

    teacher: a name for `load_teacher`, or a loaded one (then `device` and `precision` are its own). The photo
    goes through the teacher's own preprocessing. A photo that cannot be read leaves its row invalid and a
    note.

    name: the column is `images-NAME`, beside another teacher's `images`. fast: decode and resize near the
    teacher's way and not exactly so; the report says how near. options: how it is made, see `Making`.

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    making = Making(**options)
    index = open_index(data)
    check_photos(index)
    known = making.teacher(teacher)
    spec = images_spec(index, known, making.batch, making.chunk_rows, check_label(name), fast)
    writer = open_writer(making.place(data), spec, overwrite=making.overwrite)
    reader = image_reader(index, known, fast, making.strict)
    run = run_chunks(
        writer,
        reader,
        encoder(known),
        batch=making.batch,
        spans=_spans,
        unit="photos",
        **making.reading,
    )
    agreed = None
    if fast:
        agreed = agreement_of(making.place(data), run.manifest, replace(reader, fast=False), known)
    return report_of(writer, run, making.reporter, strict=making.strict, agreement=agreed, photos=len(index))


@dataclass(frozen=True)
class ImageReader:
    """Reads rows of `images`: each the teacher's (3, S, S) uint8 pixels of a photo. Picklable.

    fast, on_device: as in `CropReader`.
    """

    index: Index
    preprocess: Preprocess
    strict: bool = False
    fast: bool = False
    on_device: bool = False

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Items of the image rows [lo, hi)."""
        for image in range(lo, hi):
            reduction = self.reduction(image)
            photo = load_or_reason(self.index, image, strict=self.strict, reduction=reduction)
            yield self.item(image, photo)

    def item(self, image: int, photo: Image.Image | Tensor | str) -> Item:
        """The item of an image row whose photo was decoded already, or is bad for the reason given."""
        if isinstance(photo, str):
            return Item(image, reason=photo)
        if self.fast:
            return Item(image, fast_pixels(self.preprocess, as_pixels(photo), self.on_device))
        assert isinstance(photo, Image.Image)
        return Item(image, self.preprocess.pixels(photo))

    def reduction(self, image: int) -> int:
        """At which 1/n a JPEG may be decoded for an image row."""
        sides = np.array([[self.index.widths[image], self.index.heights[image]]], np.float64)
        return self.preprocess.reduction(sides) if self.fast else 1


def image_reader(index: Index, teacher: Teacher, fast: bool = False, strict: bool = False) -> ImageReader:
    """The reader for a teacher; CUDA resizes by itself."""
    return ImageReader(index, teacher.preprocess, strict, fast, fast and teacher.device.type == "cuda")


def images_spec(
    index: Index, teacher: Teacher, batch: int, chunk_rows: int, label: str = "", fast: bool = False
) -> ColumnSpec:
    """What the column is."""
    return ColumnSpec(
        name=str(ColumnName("images", label)),
        table="images",
        rows=len(index),
        width=teacher.width,
        has_valid=True,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={**teacher_recipe(teacher, batch, fast), "source": "whole photo"},
    )


def teacher_recipe(teacher: Teacher, batch: int, fast: bool = False) -> dict[str, Any]:
    """What every column of image embeddings says of how it was made.

    `batch` is part of it: the last bits of a teacher's floats depend on the shape of its batch.
    """
    return {
        "teacher": teacher.recipe(),
        "preprocessing": teacher.preprocess_recipe(),
        "normalisation": "unit",
        "batch": batch,
        **({"fast": FAST} if fast else {}),
    }


def encoder(teacher: Teacher) -> Callable[[list[NDArray[np.uint8]]], Callable[[], NDArray[np.float32]]]:
    """What the runner maps with: uint8 pixels of n rows, (3, S, S) or as `fast_pixels` leaves them to the
    device -> a function that gives (n, D) float32.
    """

    def encode(pixels: Sequence[NDArray[np.uint8]]) -> Callable[[], NDArray[np.float32]]:
        return teacher.launch_images(stacked(teacher.preprocess, pixels, teacher.device))

    return encode


def _spans(lo: int, hi: int) -> list[tuple[int, int]]:
    return [(start, min(start + PHOTOS_A_SPAN, hi)) for start in range(lo, hi, PHOTOS_A_SPAN)]
