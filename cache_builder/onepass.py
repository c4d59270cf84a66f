"""All columns of one teacher with every photo decoded once: what `cckt cache all` runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache_builder.crops import CROWD, SMALL, CropReader, check_rule, crops_spec, usable_boxes
from cache_builder.images import (
    CHUNK_ROWS,
    ImageReader,
    as_teacher,
    check_numbers,
    encoder,
    images_spec,
)
from cache_builder.index import Index, open_index
from cache_builder.photos import check_folder, load_or_reason
from cache_builder.priors import cache_clip_priors
from cache_builder.progress import Progress, Silent
from cache_builder.report import CacheReport, report_of
from cache_builder.runner import Item, Job, Target, run_targets
from cache_builder.store import open_writer
from cache_builder.teacher import Teacher
from cache_builder.text import cache_text


def cache_all(
    data: Path,
    teacher: str | Teacher,
    *,
    templates: str | Path | Sequence[str] = "ensemble12",
    synonyms: bool = False,
    crop: str = "box",
    tau: float = 0.07,
    batch: int = 256,
    workers: int | None = None,
    processes: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    strict: bool = False,
    part: tuple[int, int] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[CacheReport]:
    """Make `text`, then `crops` and `images` from one pass over the photos, then `priors/clip`; their
    reports.

    The columns are those of `cache_text`, `cache_crops`, `cache_images` and `cache_clip_priors`, byte for
    byte. The priors are left out while other parts still have photos to encode: the last one to end makes
    them.

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    known = as_teacher(teacher, device, precision)
    reports = [
        cache_text(
            data,
            known,
            templates=templates,
            synonyms=synonyms,
            part=part,
            overwrite=overwrite,
            progress=progress,
        ),
        *cache_photos(
            data,
            known,
            crop=crop,
            batch=batch,
            workers=workers,
            processes=processes,
            strict=strict,
            part=part,
            overwrite=overwrite,
            progress=progress,
        ),
    ]
    if all(report.manifest for report in reports):
        reports.append(cache_clip_priors(data, tau=tau, part=(0, 1), overwrite=overwrite, progress=progress))
    return reports


def cache_photos(
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
) -> list[CacheReport]:
    """Make the columns `crops` and `images` from one pass over the photos; options as in `cache_crops`."""
    workers = check_numbers(batch, workers, part)
    check_rule(crop)
    index = open_index(data)
    check_folder(index)
    known = as_teacher(teacher, device, precision)
    progress = progress or Silent()
    specs = (
        crops_spec(index, known, crop, batch, chunk_rows),
        images_spec(index, known, batch, chunk_rows),
    )
    targets = [Target(open_writer(data, spec, overwrite=overwrite), encoder(known), batch) for spec in specs]
    runs = run_targets(
        targets,
        photo_jobs(index),
        PhotoReader(
            index,
            CropReader(index, known.preprocess, crop, strict),
            ImageReader(index, known.preprocess, strict),
            strict,
        ),
        workers=workers,
        processes=processes,
        part=part,
        progress=progress,
    )
    return [
        report_of(target.writer, run, progress, strict=strict, expected=(CROWD, SMALL))
        for target, run in zip(targets, runs, strict=True)
    ]


@dataclass(frozen=True)
class PhotoReader:
    """Reads a photo's rows of `crops` (target 0) and of `images` (target 1) from one decoding. Picklable."""

    index: Index
    crops: CropReader
    images: ImageReader
    strict: bool = False

    def __call__(self, job: Job) -> Iterable[tuple[int, Item]]:
        """Items of the job's box rows and of its image row; either range may be empty."""
        (lo, hi), (image, image_end) = job
        if lo < hi:
            image = int(self.index.box_images[lo])
        wanted = image < image_end or bool(usable_boxes(self.index, lo, hi).any())
        photo = load_or_reason(self.index, image, strict=self.strict) if wanted else ""
        yield from ((0, item) for item in (self.crops.items(lo, hi, photo) if lo < hi else ()))
        if job[1][0] < image_end:
            yield 1, self.images.item(image, photo)


def photo_jobs(index: Index) -> list[Job]:
    """One job a photo: its box rows, its image row."""
    offsets = index.box_offsets.tolist()
    return [((offsets[i], offsets[i + 1]), (i, i + 1)) for i in range(len(index))]
