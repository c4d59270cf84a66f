"""The column `images`: every whole photo as the teacher sees it (METHOD.md section 3, "Image embeddings")."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_builder.errors import UserError
from cache_builder.index import open_index
from cache_builder.photos import BadPhoto, check_folder, load_row
from cache_builder.progress import Progress, Silent
from cache_builder.report import CacheReport, report_of
from cache_builder.runner import Item, run_chunks
from cache_builder.store import ColumnSpec, open_writer
from cache_builder.teacher import Teacher, load_teacher

CHUNK_ROWS = 512
"""Rows a chunk, and with it the work a kill can cost."""

PHOTOS_A_SPAN = 8  # read in one go by a worker: few enough to share small data sets among workers


def cache_images(
    data: Path,
    teacher: str | Teacher,
    *,
    batch: int = 256,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    strict: bool = False,
    part: tuple[int, int] = (0, 1),
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CacheReport:
    """Make the column `images` of the data set `data`: (I, D) float16 unit, row i the photo of image row i.

    teacher: a name for `load_teacher`, or a loaded one (then `device` and `precision` are its own). The
    photo goes through the teacher's own preprocessing. workers: threads that decode (default: one a core, at
    most 8). A photo that cannot be read leaves its row invalid and a note; `strict` stops instead. part: (i,
    n), the i-th of n makers.

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    index = open_index(data)
    check_folder(index)
    known = as_teacher(teacher, device, precision)
    recipe = {**teacher_recipe(known, batch), "source": "whole photo"}
    spec = ColumnSpec(
        name="images",
        table="images",
        rows=len(index),
        width=known.width,
        has_valid=True,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe=recipe,
    )
    pixels = known.preprocess.pixels

    def read(lo: int, hi: int) -> Iterable[Item]:
        for image in range(lo, hi):
            try:
                yield Item(image, pixels(load_row(index, image, strict=strict)))
            except BadPhoto as bad:
                yield Item(image, reason=f"{index.file_name(image)} {bad.reason}")

    def spans(lo: int, hi: int) -> list[tuple[int, int]]:
        return [(start, min(start + PHOTOS_A_SPAN, hi)) for start in range(lo, hi, PHOTOS_A_SPAN)]

    progress = progress or Silent()
    writer = open_writer(data, spec, overwrite=overwrite)
    run = run_chunks(
        writer,
        read,
        encoder(known),
        batch=checked_batch(batch),
        spans=spans,
        workers=default_workers(workers),
        part=part,
        progress=progress,
        unit="photos",
    )
    return report_of(writer, run, progress)


def as_teacher(teacher: str | Teacher, device: str, precision: str) -> Teacher:
    """A loaded teacher, of a name or as given."""
    return (
        teacher if isinstance(teacher, Teacher) else load_teacher(teacher, device=device, precision=precision)
    )


def teacher_recipe(teacher: Teacher, batch: int) -> dict[str, Any]:
    """What every column of image embeddings says of how it was made.

    `batch` is part of it: the last bits of a teacher's floats depend on the shape of its batch.
    """
    return {
        "teacher": teacher.recipe(),
        "preprocessing": teacher.preprocess_recipe(),
        "normalisation": "unit",
        "batch": batch,
    }


def encoder(teacher: Teacher) -> Any:
    """What the runner maps with: a list of (3, S, S) uint8 pixels -> (n, D) float32 unit."""

    def encode(pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return teacher.encode_images(np.stack(pixels))

    return encode


def default_workers(workers: int | None) -> int:
    """Threads that decode: as asked for, else one a core and at most 8."""
    if workers is not None and workers < 0:
        raise UserError(f"--workers is {workers}; give 0 (decode in the main thread) or more.")
    return min(8, os.cpu_count() or 1) if workers is None else workers


def checked_batch(batch: int) -> int:
    """`batch` where it is at least 1, else a UserError."""
    if batch < 1:
        raise UserError(f"--batch is {batch}; give at least 1.")
    return batch
