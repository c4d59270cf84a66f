"""The column `priors/clip`: the probability of each concept in each image by the teacher's two encoders.

docs/method/cckt_det.md, eq. 5. Probabilities are stored, not yes or no: the reader applies the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cckt.cache_builder.base.constants import TAU
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.growth.begin import begin_column
from cckt.cache_builder.columns.options import check_numbers, place
from cckt.cache_builder.columns.remake import Made, Remake
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import open_index
from cckt.cache_builder.presence import clip_probability
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import (
    ColumnName,
    Origin,
    check_label,
    column_spec,
    open_column,
    repair_command,
    require_same_teacher,
)

CHUNK_ROWS = 1024
"""Images of a chunk."""


def cache_clip_priors(
    data: Path,
    *,
    name: str = "",
    tau: float = TAU,
    part: tuple[int, int] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    out: Path | str | None = None,
    progress: Progress | None = None,
    reuse: str = "same",
) -> CacheReport:
    """Make the column `priors/clip` of the data set `data`: (I, C) float32, sigma(cos(image i, t_c) / tau).

    It is computed from the data set's columns `images` and `text`, which must be of one teacher: one matrix
    product for each chunk. A photo without an embedding leaves an invalid row. tau: temperature. name: label
    of a second teacher; `priors/clip-NAME` is computed from `images-NAME` and `text-NAME`.

    A column of an earlier index of the data set stays in its place until this one is finished. Its rows are
    computed again: they need no photo and no teacher. reuse: see `begin_column`.

    out: place of the column, if not the data set's folder: a folder or a URL (s3://, gs://, memory://).

    After a kill the same call resumes. Raises UserError for what the user can correct.
    """
    check_numbers(chunk_rows, 1, part)
    check_tau(tau)
    index = open_index(data)
    images, text = (
        open_column(
            place(data, out),
            str(ColumnName(kind, check_label(name))),
            index_digest=index.digest,
            prove=True,
        )
        for kind in ("images", "text")
    )
    if len(index) and not images.valid_all().any():
        raise UserError(
            f"column {images.manifest.spec.name} has no valid row among {len(index)}: expected an embedding "
            "of at least one photo; make it again with --overwrite where the photos can be read."
        )
    step = "make both with one teacher, with --overwrite for the one to replace"
    require_same_teacher(Origin.of(images), Origin.of(text), step=step)
    spec = column_spec(
        ColumnName("priors/clip", name),
        rows=len(index),
        width=len(index.concepts),
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={
            "formula": "sigmoid(cos(image, text) / tau)",
            "tau": tau,
            "from": {"images": images.manifest.digest, "text": text.manifest.digest},
            "teacher": images.manifest.spec.recipe["teacher"],
        },
    )
    concepts = text.all()

    def read(lo: int, hi: int) -> Iterable[Item]:
        rows, valid = images.slice(lo, hi), images.valid(np.arange(lo, hi))
        return [
            Item(lo + k, rows[k])
            if valid[k]
            else Item(lo + k, reason=f"{index.file_name(lo + k)} has no embedding")
            for k in range(hi - lo)
        ]

    progress = progress or Silent()
    growth = begin_column(
        data,
        place(data, out),
        spec,
        index,
        overwrite=overwrite,
        reuse=reuse,
        changing=("from",),
        copies=False,
    )
    writer = growth.writer
    run = run_chunks(
        writer,
        read,
        lambda rows: clip_probability(np.stack(rows), concepts, tau),
        batch=spec.chunk_rows,
        spans=lambda lo, hi: [(lo, hi)],
        workers=1,
        part=part,
        progress=progress,
        unit="photos",
    )
    growth.finish(run.manifest)
    return report_of(writer, run, progress, photos=len(index))


def check_tau(tau: float) -> None:
    """Raise UserError unless `tau` is a temperature."""
    if not (math.isfinite(tau) and tau > 0):
        raise UserError(f"--tau is {tau}; give a temperature above 0, such as the default {TAU}.")


def remake_clip_priors(made: Made) -> Remake | None:
    """See `recompute.REMAKE`. Raises UserError if `images` or `text` is missing or was made again since."""
    spec, folder = made.spec, made.index.folder
    columns = {}
    for kind in ("images", "text"):
        name = str(ColumnName(kind, made.name.label))
        columns[kind] = open_column(folder, name, index_digest=made.index.digest, prove=True)
        found, recorded = columns[kind].manifest.digest, spec.recipe["from"][kind]
        if found != recorded:
            command = repair_command(str(folder), spec.name, spec.recipe)
            raise UserError(
                f"column {spec.name} of {folder} was made from another column {name} ({recorded}, now "
                f"{found}); make it again with {command} --overwrite."
            )
    text, tau = columns["text"].all(), float(spec.recipe["tau"])
    return lambda rows: clip_probability(columns["images"].take(rows), text, tau)
