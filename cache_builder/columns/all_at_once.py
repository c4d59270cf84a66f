"""All columns of one or several teachers with every photo decoded once: what `cckt cache all` runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Unpack

from PIL import Image
from torch import Tensor

from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import (
    CROWD,
    SMALL,
    CropReader,
    cache_crops,
    check_rule,
    crop_reader,
    crops_spec,
    photos_with_crops,
    usable_boxes,
)
from cckt.cache_builder.columns.fast_pixels import agreement_of, as_pixels
from cckt.cache_builder.columns.images import ImageReader, cache_images, encoder, image_reader, images_spec
from cckt.cache_builder.columns.options import Making, Options
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.columns.teachers import Teachers, load_teachers
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.columns.views import view_names
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.runner import Item, Job, Target, run_targets
from cckt.cache_builder.store import ColumnSpec, open_writer
from cckt.cache_builder.teacher.clip import Teacher

Photo = Image.Image | Tensor | str


def cache_all(
    data: Path,
    teacher: Teachers,
    *,
    name: str | Sequence[str] = (),
    templates: str | Path | Sequence[str] = "ensemble12",
    synonyms: bool = False,
    crop: str = "box",
    flipped: bool = False,
    jitter: int = 0,
    fast: bool = False,
    tau: float = 0.07,
    **options: Unpack[Options],
) -> list[CacheReport]:
    """Make `text`, then `crops` and `images` from one pass over the photos, then `priors/clip`; their
    reports.

    The columns are those of `cache_text`, `cache_crops`, `cache_images` and `cache_clip_priors`, byte for
    byte. The priors are left out while other parts still have photos to encode: the last one to end makes
    them. Several teachers look at the photos in the same pass; see `label_teachers` for `name`. flipped,
    jitter: views of the crops, as in `cache_photos`. options: how they are made, see `Making`; `chunk_rows`
    is of the columns of pictures.

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    making = Making(**options)
    labelled = load_teachers(teacher, name, making.device, making.precision)
    reports = [
        cache_text(
            data,
            known,
            name=label,
            templates=templates,
            synonyms=synonyms,
            part=making.part,
            overwrite=making.overwrite,
            out=making.out,
            progress=making.progress,
        )
        for label, known in labelled.items()
    ]
    reports += cache_photos(
        data,
        list(labelled.values()),
        name=list(labelled),
        crop=crop,
        flipped=flipped,
        jitter=jitter,
        fast=fast,
        **options,
    )
    if all(report.manifest for report in reports):
        reports += [
            cache_clip_priors(
                data,
                name=label,
                tau=tau,
                part=(0, 1),
                overwrite=making.overwrite,
                out=making.out,
                progress=making.progress,
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
    crop: str = "box",
    flipped: bool = False,
    jitter: int = 0,
    fast: bool = False,
    **options: Unpack[Options],
) -> list[CacheReport]:
    """Make columns of several `kinds`, views and teachers from one pass over the photos; a report each.

    flipped: besides `crops` make `crops-flipped`, every crop mirrored. jitter: and `crops-jitter-1` to
    `crops-jitter-N`, boxes moved and scaled a little. crop, fast and `options` as in `cache_crops`; every
    column is what that verb alone would make, byte for byte.
    """
    making = Making(**options)
    check_rule(crop)
    views = view_names("", flipped, jitter)
    labelled = load_teachers(teacher, name, making.device, making.precision)
    if len(labelled) == len(kinds) == len(views) == 1:  # where ranks of one column can help each other
        ((label, known),) = labelled.items()
        alone = partial(cache_crops, crop=crop) if kinds[0] == "crops" else cache_images
        return [alone(data, known, name=label, fast=fast, **options)]
    index = open_index(data)
    needed = None if "images" in kinds else photos_with_crops(index)
    check_photos(index, needed)
    columns: list[tuple[ColumnSpec, CropReader | ImageReader, Teacher]] = []
    for label, known in labelled.items():
        if "crops" in kinds:
            for column in view_names(label, flipped, jitter):
                spec = crops_spec(index, known, crop, making.batch, making.chunk_rows, column, fast)
                reader = crop_reader(index, known, crop, column.view, fast, making.strict)
                columns.append((spec, reader, known))
        if "images" in kinds:
            spec = images_spec(index, known, making.batch, making.chunk_rows, label, fast)
            columns.append((spec, image_reader(index, known, fast, making.strict), known))
    targets = [
        Target(
            open_writer(making.place(data), spec, overwrite=making.overwrite), encoder(known), making.batch
        )
        for spec, _, known in columns
    ]
    runs = run_targets(
        targets,
        photo_jobs(index, [isinstance(reader, CropReader) for _, reader, _ in columns]),
        PhotoReader(index, tuple(reader for _, reader, _ in columns), making.strict),
        **making.reading,
    )
    reports = []
    for target, run, (_, made_by, known) in zip(targets, runs, columns, strict=True):
        agreed = None
        if fast:
            agreed = agreement_of(making.place(data), run.manifest, replace(made_by, fast=False), known)
        reports.append(
            report_of(
                target.writer,
                run,
                making.reporter,
                strict=making.strict,
                expected=(CROWD, SMALL),
                agreement=agreed,
                photos=len(photos_with_crops(index)) if isinstance(made_by, CropReader) else len(index),
            )
        )
    return reports


@dataclass(frozen=True)
class PhotoReader:
    """Reads a photo's rows for every column from one decoding. Picklable.

    readers: one a target, in order. Columns whose pixels are the same (two teachers that share their
    preprocessing) get the same items.
    """

    index: Index
    readers: tuple[CropReader | ImageReader, ...]
    strict: bool = False

    def __call__(self, job: Job) -> Iterable[tuple[int, Item]]:
        """Items of the job's rows of each target: boxes of one photo, or that photo; any may be empty."""
        photos: dict[int, Photo] = {}
        made: dict[str, list[Item]] = {}
        for target, (reader, (lo, hi)) in enumerate(zip(self.readers, job, strict=True)):
            if lo == hi:
                continue
            key = f"{lo}-{hi} {_pixels_of(reader)}"
            if key not in made:
                made[key] = list(self._items(reader, lo, hi, photos))
            yield from ((target, item) for item in made[key])

    def _items(
        self, reader: CropReader | ImageReader, lo: int, hi: int, photos: dict[int, Photo]
    ) -> Iterable[Item]:
        crops = isinstance(reader, CropReader)
        image = int(self.index.box_images[lo]) if crops else lo
        photo: Photo = ""
        if not crops or usable_boxes(self.index, lo, hi).any():
            reduction = reader.reduction(image)
            if reduction not in photos:
                found = load_or_reason(self.index, image, strict=self.strict, reduction=reduction)
                photos[reduction] = as_pixels(found) if reader.fast and not isinstance(found, str) else found
            photo = photos[reduction]
        return reader.items(lo, hi, photo) if isinstance(reader, CropReader) else [reader.item(image, photo)]


def _pixels_of(reader: CropReader | ImageReader) -> str:
    """All that decides a reader's pixels but the index."""
    crops = (reader.crop, reader.view) if isinstance(reader, CropReader) else ()
    recipe = json.dumps(reader.preprocess.recipe, sort_keys=True)
    return f"{crops} {reader.fast} {reader.on_device} {recipe}"


def photo_jobs(index: Index, crops: Sequence[bool]) -> list[Job]:
    """One job a photo: for each target its box rows (where `crops`) or its image row."""
    offsets = index.box_offsets.tolist()
    return [
        tuple((offsets[i], offsets[i + 1]) if boxes else (i, i + 1) for boxes in crops)
        for i in range(len(index))
    ]
