"""The column `images`: every whole photo as the teacher sees it (METHOD.md section 3, "Image embeddings")."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cache_builder.errors import UserError
from cache_builder.faster import agreement_of, as_pixels, fast_pixels, stacked
from cache_builder.index import Index, open_index
from cache_builder.photos import check_folder, load_or_reason
from cache_builder.preprocess import FAST, Preprocess
from cache_builder.progress import Progress, Silent
from cache_builder.report import CacheReport, report_of
from cache_builder.runner import Item, run_chunks
from cache_builder.store import ColumnName, ColumnSpec, check_label, open_writer
from cache_builder.teacher import Teacher, load_teacher

CHUNK_ROWS = 512
"""Rows a chunk, and with it the work a kill can cost."""

PHOTOS_A_SPAN = 8  # read in one go by a worker: few enough to share small data sets among workers


def cache_images(
    data: Path,
    teacher: str | Teacher,
    *,
    name: str = "",
    fast: bool = False,
    batch: int = 256,
    workers: int | None = None,
    processes: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    strict: bool = False,
    part: tuple[int, int] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> CacheReport:
    """Make the column `images` of the data set `data`: (I, D) float16 unit, row i the photo of image row i.

    teacher: a name for `load_teacher`, or a loaded one (then `device` and `precision` are its own). The photo
    goes through the teacher's own preprocessing. workers: threads that decode, or with `processes` as many
    processes (default: one a core, at most 8). A photo that cannot be read leaves its row invalid and a note;
    `strict` stops instead. part: (i, n), the i-th of n makers; None: torchrun's rank, else all.

    name: the column is `images-NAME`, beside another teacher's `images`. fast: decode and resize near the
    teacher's way and not exactly so; the report says how near. overwrite: replace another column of that
    name, or make the same one again.

    out: where the column goes, if not into the data set's folder: a folder or a URL (s3://, gs://, memory://).

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    workers = check_numbers(batch, workers, part)
    index = open_index(data)
    check_folder(index)
    known = as_teacher(teacher, device, precision)
    progress = progress or Silent()
    spec = images_spec(index, known, batch, chunk_rows, check_label(name), fast)
    writer = open_writer(data if out is None else out, spec, overwrite=overwrite)
    reader = image_reader(index, known, fast, strict)
    run = run_chunks(
        writer,
        reader,
        encoder(known),
        batch=batch,
        spans=_spans,
        workers=workers,
        processes=processes,
        part=part,
        progress=progress,
        unit="photos",
    )
    agreed = (
        agreement_of(data if out is None else out, run.manifest, replace(reader, fast=False), known)
        if fast
        else None
    )
    return report_of(writer, run, progress, strict=strict, agreement=agreed)


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


def as_teacher(teacher: str | Teacher, device: str, precision: str) -> Teacher:
    """A loaded teacher, of a name or as given."""
    if isinstance(teacher, Teacher):
        return teacher
    return load_teacher(teacher, device=device, precision=precision)


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


def check_numbers(batch: int, workers: int | None, part: tuple[int, int] | None) -> int:
    """Workers that decode: as asked for, else one a core, at most 8. UserError for numbers out of range."""
    if batch < 1:
        raise UserError(f"--batch is {batch}; give at least 1.")
    if workers is not None and workers < 0:
        raise UserError(f"--workers is {workers}; give 0 (decode in the main thread) or more.")
    if part is not None and not 0 <= part[0] < part[1]:
        raise UserError(f"--part is {part[0]}/{part[1]}; give I/N with I from 0 to N - 1.")
    return min(8, os.cpu_count() or 1) if workers is None else workers


def _spans(lo: int, hi: int) -> list[tuple[int, int]]:
    return [(start, min(start + PHOTOS_A_SPAN, hi)) for start in range(lo, hi, PHOTOS_A_SPAN)]
