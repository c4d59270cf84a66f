"""All columns of one or several teachers, with every photo decoded once: what `cckt cache all` runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Unpack

from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.constants import CROP, TABLE, TAU, TEMPLATES
from cckt.cache_builder.columns.clip_priors import cache_clip_priors, check_tau
from cckt.cache_builder.columns.crops import (
    CROWD,
    SMALL,
    CropReader,
    box_table,
    cache_crops,
    crop_encoder,
    crop_reader,
    crops_name,
    crops_spec,
)
from cckt.cache_builder.columns.fast_pixels import agreement_of, as_pixels
from cckt.cache_builder.columns.growth.begin import finish_all, require_same_bytes
from cckt.cache_builder.columns.growth.donor import Donor
from cckt.cache_builder.columns.images import ImageReader, cache_images, encoder, image_reader, images_spec
from cckt.cache_builder.columns.options import Making, Options
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.columns.teachers import Teachers, load_teachers
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.columns.views import BoxTable, photos_with_crops, usable_boxes, view_names
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.runner import Item, Job, Target, run_targets
from cckt.cache_builder.store import ColumnSpec
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.crop_rules import check_rule

Photo = Image.Image | Tensor | str

MOST_JOINED = 64
"""Photos of one job whose rows are all copied."""


def cache_all(
    data: Path,
    teacher: Teachers,
    *,
    name: str | Sequence[str] = (),
    templates: str | Path | Sequence[str] = TEMPLATES,
    synonyms: bool = False,
    crop: str = CROP,
    flipped: bool = False,
    jitter: int = 0,
    fast: bool = False,
    tau: float = TAU,
    **options: Unpack[Options],
) -> list[CacheReport]:
    """Make `text`, then `crops` and `images` in one pass over the photos, then `priors/clip`; return reports.

    The columns are those of `cache_text`, `cache_crops`, `cache_images` and `cache_clip_priors`, byte for
    byte. Makers share every column, see `run_chunks`; an `ExactPart` leaves the priors out while other parts
    have photos to encode.
    Several teachers share the pass; see `label_teachers` for `name`. flipped, jitter: views of the crops, see
    `cache_photos`. options: see `Making`; `chunk_rows` is of `crops` and `images`.

    After a kill the same call resumes. Raises UserError for what the user can correct.
    """
    making = Making(**options)
    check_tau(tau)  # the priors come last, after hours
    check_rule(crop)
    view_names("", flipped, jitter)
    held: Options = {**options, "held": True}
    labelled = load_teachers(teacher, name, making.device, making.precision)
    reports = [
        cache_text(
            data,
            loaded,
            name=label,
            templates=templates,
            synonyms=synonyms,
            part=making.part,
            overwrite=making.overwrite,
            out=making.out,
            progress=making.progress,
            reuse=making.reuse,
            held=True,
        )
        for label, loaded in labelled.items()
    ]
    reports += cache_photos(
        data,
        list(labelled.values()),
        name=list(labelled),
        crop=crop,
        flipped=flipped,
        jitter=jitter,
        fast=fast,
        **held,
    )
    if all(report.manifest for report in reports):
        names = [report.name for report in reports]
        finish_all(data, making.place(data), open_index(data), names)  # the old columns fit each other
        reports += [
            cache_clip_priors(
                data,
                name=label,
                tau=tau,
                part=(0, 1),
                overwrite=making.overwrite,
                out=making.out,
                progress=making.progress,
                reuse=making.reuse,
            )
            for label in labelled
        ]
    return reports


def cache_photos(
    data: Path,
    teacher: Teachers,
    *,
    name: str | Sequence[str] = (),
    kinds: Sequence[str] = ("crops", "images"),
    crop: str = CROP,
    flipped: bool = False,
    jitter: int = 0,
    fast: bool = False,
    of: str = TABLE,
    **options: Unpack[Options],
) -> list[CacheReport]:
    """Make columns of several kinds, views and teachers in one pass over the photos; return their reports.

    kinds: "crops", "images" or both. flipped: also make `crops-flipped`, of mirrored crops. jitter: also make
    `crops-jitter-1` to `crops-jitter-N`, of boxes moved and scaled. of, crop, fast and options: see
    `cache_crops`. Every column has the bytes that its own function makes.
    """
    making = Making(**options)
    check_rule(crop)
    views = view_names("", flipped, jitter)
    labelled = load_teachers(teacher, name, making.device, making.precision)
    if len(labelled) == len(kinds) == len(views) == 1:  # ranks that make one column can help each other
        ((label, loaded),) = labelled.items()
        cache_one = partial(cache_crops, crop=crop, of=of) if kinds[0] == "crops" else cache_images
        return [cache_one(data, loaded, name=label, fast=fast, **options)]
    index = open_index(data)
    table = box_table(data, index, of)
    needed = None if "images" in kinds else photos_with_crops(table)
    check_photos(index, needed)
    columns: list[tuple[ColumnSpec, CropReader | ImageReader, Teacher]] = []
    for label, loaded in labelled.items():
        if "crops" in kinds:
            for column in view_names(label, flipped, jitter, crops_name(table)):
                spec = crops_spec(table, loaded, crop, making.batch, making.chunk_rows, column, fast)
                made_by = crop_reader(table, loaded, crop, column.view, fast, making.strict)
                columns.append((spec, made_by, loaded))
        if "images" in kinds:
            spec = images_spec(index, loaded, making.batch, making.chunk_rows, label, fast)
            columns.append((spec, image_reader(index, loaded, fast, making.strict), loaded))
    growths, targets = [], []
    for spec, reader, loaded in columns:
        of_crops = isinstance(reader, CropReader)
        growth = making.begin(data, spec, table if of_crops else index)
        encode = crop_encoder(loaded, crop, making.batch) if of_crops else encoder(loaded, making.batch)
        targets.append(Target(growth.writer, encode, making.batch, independent=True))
        growths.append(growth)
        if growth.donor is not None and fast and isinstance(reader, CropReader):
            growth.donor.reduction = reader.reduction_of
        require_same_bytes(growth, reader, encode, making.reuse)
    donors = [growth.donor for growth in growths]
    jobs = photo_jobs(table, [isinstance(reader, CropReader) for _, reader, _ in columns])
    runs = run_targets(
        targets,
        join_copied(jobs, donors),
        PhotoReader(index, tuple(reader for _, reader, _ in columns), making.strict, tuple(donors)),
        **making.reading,
    )
    reports = []
    for target, growth, run, (_, reader, loaded) in zip(targets, growths, runs, columns, strict=True):
        agreed = None
        if fast:
            agreed = agreement_of(growth.readable, run.manifest, replace(reader, fast=False), loaded)
        reports.append(
            report_of(
                target.writer,
                run,
                making.reporter,
                strict=making.strict,
                expected=(CROWD, SMALL),
                agreement=agreed,
                photos=len(photos_with_crops(table)) if isinstance(reader, CropReader) else len(index),
            )
        )
        growth.finish(run.manifest)
    return reports


@dataclass(frozen=True)
class PhotoReader:
    """Reads a photo's rows for every column from one decoding. Picklable.

    readers: one for each target, in order. donors: for each target, the older column from which rows are
    copied, or None; () for no copies. Columns with the same pixels (of teachers with the same
    preprocessing) get the same items.
    """

    index: Index
    readers: tuple[CropReader | ImageReader, ...]
    strict: bool = False
    donors: tuple[Donor | None, ...] = ()

    def __call__(self, job: Job) -> Iterable[tuple[int, Item]]:
        """Yield (target, item) for the rows of a job: boxes of one photo, or the photo; rows may be empty.

        A job may be of several photos whose rows are all copied.
        """
        photos: dict[tuple[int, int], Photo] = {}
        made: dict[str, list[Item]] = {}
        for target, (reader, (lo, hi)) in enumerate(zip(self.readers, job, strict=True)):
            donor = self.donors[target] if self.donors else None
            ranges, needed = [(lo, hi)] if lo < hi else [], set(range(lo, hi))
            if donor is not None:
                copied, ranges, needed = donor.split(lo, hi)
                yield from ((target, item) for item in copied)
            for start, stop in ranges:
                key = f"{start}-{stop} {_pixels_of(reader)}"
                if key not in made:
                    made[key] = list(self._items(reader, start, stop, photos))
                yield from ((target, item) for item in made[key] if item.row in needed)

    def _items(
        self, reader: CropReader | ImageReader, lo: int, hi: int, photos: dict[tuple[int, int], Photo]
    ) -> Iterable[Item]:
        """Items of rows of one photo."""
        table = reader.table if isinstance(reader, CropReader) else None
        image = lo if table is None else int(table.box_images[lo])
        photo: Photo = ""
        if table is None or usable_boxes(table, lo, hi).any():
            reduction = reader.reduction(image)
            key = (image, reduction)
            if key not in photos:
                found = load_or_reason(self.index, image, strict=self.strict, reduction=reduction)
                photos[key] = as_pixels(found) if reader.fast and not isinstance(found, str) else found
            photo = photos[key]
        return reader.items(lo, hi, photo) if isinstance(reader, CropReader) else [reader.item(image, photo)]


def _pixels_of(reader: CropReader | ImageReader) -> str:
    """A key that is equal for readers with the same pixels, of one index."""
    crops = (reader.crop, reader.view, reader.grid) if isinstance(reader, CropReader) else ()
    recipe = json.dumps(reader.preprocess.recipe, sort_keys=True)
    return f"{crops} {reader.fast} {reader.on_device} {recipe}"


def join_copied(jobs: list[Job], donors: Sequence[Donor | None]) -> list[Job]:
    """Join consecutive jobs of which every row of every target is copied, up to MOST_JOINED."""
    if not donors or any(donor is None for donor in donors):
        return jobs
    joined: list[Job] = []
    count = 0
    for job in jobs:
        whole = all(
            donor is None or bool((donor.old_rows(lo, hi) >= 0).all())
            for donor, (lo, hi) in zip(donors, job, strict=True)
        )
        if whole and 0 < count < MOST_JOINED:
            joined[-1] = tuple((lo, hi) for (lo, _), (_, hi) in zip(joined[-1], job, strict=True))
        else:
            joined.append(job)
            count = 0
        count = count + 1 if whole else 0
    return joined


def photo_jobs(table: BoxTable, crops: Sequence[bool]) -> list[Job]:
    """Return one job for each photo: for each target its box rows (if `crops`) or its image row."""
    offsets = (table.box_offsets if isinstance(table, Index) else table.offsets).tolist()
    return [
        tuple((offsets[i], offsets[i + 1]) if boxes else (i, i + 1) for boxes in crops)
        for i in range(len(offsets) - 1)
    ]
