"""What the columns of a data set will cost: rows, bytes, chunks, and hours at a rate measured here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.constants import BATCH, CHUNK_ROWS, CROP, PRECISION
from cckt.cache_builder.base.errors import counted
from cckt.cache_builder.columns import clip_priors, text
from cckt.cache_builder.columns.crops import crop_encoder, crop_reader, crops_spec
from cckt.cache_builder.columns.images import encoder, image_reader, images_spec
from cckt.cache_builder.columns.options import as_teacher, check_numbers
from cckt.cache_builder.columns.views import usable_boxes
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos
from cckt.cache_builder.runner import Item
from cckt.cache_builder.store import ColumnName, ColumnSpec, column_spec
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.crop_rules import check_rule

SAMPLE = 64
"""Rows with a value that are made to measure a rate."""

WORKERS = (1, 8, 64)
"""Numbers of machines, each as fast as this one, for which hours are given."""


@dataclass(frozen=True)
class ColumnPlan:
    """One column that would be made."""

    name: str
    rows: int
    valid_rows: int
    """Rows that the teacher encodes, if every photo can be read."""
    bytes: int
    chunks: int
    rate: float | None
    """Rows per second on this machine: decode, preprocess and encode, one after the other. None: not
    measured, because the column takes no photo."""

    def hours(self, machines: int) -> float | None:
        """Return the hours on `machines` such machines; None without a rate."""
        return None if not self.rate else self.valid_rows / self.rate / 3600 / machines

    def to_json(self) -> dict[str, Any]:
        """Return the figures for `--json`."""
        return {**asdict(self), "hours": {str(n): self.hours(n) for n in WORKERS}}


def plan_columns(
    data: Path,
    teacher: str | Teacher,
    *,
    crop: str = CROP,
    fast: bool = False,
    batch: int = BATCH,
    workers: int | None = None,
    device: str = "auto",
    precision: str = PRECISION,
) -> list[ColumnPlan]:
    """Return what `cckt cache all` would make: text, crops, images and priors/clip. Nothing is written.

    The rates of crops and images are measured on the boxes of random photos (SAMPLE rows or all), after one
    batch that is not timed. Raises UserError as the makers of these columns do.
    """
    check_rule(crop)
    threads = check_numbers(batch, workers, None)
    index = open_index(data)
    check_photos(index)
    loaded = as_teacher(teacher, device, precision)
    usable = usable_boxes(index)
    crops = crops_spec(index, loaded, crop, batch, CHUNK_ROWS, fast=fast)
    images = images_spec(index, loaded, batch, CHUNK_ROWS, fast=fast)
    size = min(batch, SAMPLE)
    reader = crop_reader(index, loaded, crop, "", fast)
    of_crops = _rate(_crop_jobs(index, usable), reader, crop_encoder(loaded, crop, size), threads, size)
    chosen = _photos(index)[:SAMPLE]
    of_images = _rate(
        [(image, image + 1) for image in chosen],
        image_reader(index, loaded, fast),
        encoder(loaded, size),
        threads,
        size,
    )
    concepts = len(index.concepts)
    return [
        _plan(_spec(index, "text", concepts, loaded.width, text.CHUNK_ROWS), concepts, None),
        _plan(crops, int(usable.sum()), of_crops),
        _plan(images, len(index), of_images),
        _plan(_spec(index, "priors/clip", len(index), concepts, clip_priors.CHUNK_ROWS), len(index), None),
    ]


def _spec(index: Index, kind: str, rows: int, width: int, chunk_rows: int) -> ColumnSpec:
    return column_spec(
        ColumnName(kind),
        rows=rows,
        width=width,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={},
    )


def _plan(spec: ColumnSpec, valid: int, rate: float | None) -> ColumnPlan:
    size = sum(spec.n_chunks * spec.chunk_bytes(array) for array in spec.arrays)
    return ColumnPlan(spec.name, spec.rows, valid, size, spec.n_chunks, rate)


def _photos(index: Index) -> list[int]:
    """All image rows in a random order, the same at every call."""
    order: list[int] = np.random.default_rng(0).permutation(len(index)).tolist()
    return order


def _crop_jobs(index: Index, usable: np.ndarray[Any, np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """Box rows of whole random photos with at least SAMPLE usable boxes in all, or of every photo."""
    jobs, rows = [], 0
    for image in _photos(index):
        boxes = index.boxes_of(image)
        count = int(usable[boxes].sum())
        if count:
            jobs.append((boxes.start, boxes.stop))
            rows += count
        if rows >= SAMPLE:
            break
    return jobs


def _rate(
    jobs: list[tuple[int, int]],
    read: Callable[[int, int], Iterable[Item]],
    encode: Callable[[list[Any]], Callable[[], Any]],
    threads: int,
    batch: int,
) -> float | None:
    """Rows per second; None if no row has a value."""

    def pixels(job: tuple[int, int]) -> list[Any]:
        return [item.data for item in read(*job) if item.data is not None]

    warm = next((found for job in jobs if (found := pixels(job))), None)
    if warm is None:
        return None
    encode(warm[:1])()
    began = time.perf_counter()
    if threads:
        with ThreadPoolExecutor(threads) as pool:
            rows = [row for found in pool.map(pixels, jobs) for row in found]
    else:
        rows = [row for job in jobs for row in pixels(job)]
    for lo in range(0, len(rows), batch):
        encode(rows[lo : lo + batch])()
    return len(rows) / (time.perf_counter() - began)


def lines_of(plans: list[ColumnPlan]) -> list[str]:
    """Return a plan as lines of text."""
    lines = []
    for plan in plans:
        lines.append(
            f"{plan.name}: {counted(plan.rows, 'row')}, {plan.bytes / 1e6:.1f} MB, "
            f"{counted(plan.chunks, 'chunk')}"
        )
        if plan.rate is not None:
            hours = ", ".join(f"{plan.hours(n):.3g} h on {n}" for n in WORKERS)
            lines.append(
                f"  {counted(plan.valid_rows, 'row')} to encode, {plan.rate:.1f} per second here: {hours} "
                "such machines"
            )
        else:
            lines.append("  no photo is read; no rate is measured")
    return lines
