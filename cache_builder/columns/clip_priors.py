"""The column `priors/clip`: how likely each concept is in each photo, as the teacher's own two halves have
it.

METHOD.md section 3, "Concept-existence priors". Probabilities are stored, never yes or no: the threshold is
the reader's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.options import check_numbers, place
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import open_index
from cckt.cache_builder.presence import clip_probability
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import (
    ColumnName,
    ColumnSpec,
    Origin,
    check_label,
    open_column,
    open_writer,
    require_same_teacher,
)

CHUNK_ROWS = 1024


def cache_clip_priors(
    data: Path,
    *,
    name: str = "",
    tau: float = 0.07,
    part: tuple[int, int] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> CacheReport:
    """Make the column `priors/clip` of the data set `data`: (I, C) float32, sigma(cos(image i, t_c) / tau).

    It comes from the data set's columns `images` and `text`, which must be of one teacher; one matrix
    product a chunk. A photo without an embedding leaves its row invalid. tau: the temperature, 0.07. name:
    of a second teacher; `priors/clip-NAME` comes from its columns `images-NAME` and `text-NAME`.

    out: where the column goes, if not into the data set's folder: a folder or a URL (s3://, gs://, memory://).

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    check_numbers(chunk_rows, 1, part)
    if not (math.isfinite(tau) and tau > 0):
        raise UserError(f"--tau is {tau}; give a temperature above 0, 0.07 unless you know better.")
    index = open_index(data)
    images, text = (
        open_column(place(data, out), str(ColumnName(kind, check_label(name))), index_digest=index.digest)
        for kind in ("images", "text")
    )
    if len(index) and not images.valid_all().any():
        raise UserError(
            f"column {images.manifest.spec.name} has no valid row among {len(index)}: expected an embedding "
            "of at least one photo; make it again with --overwrite where the photos can be read."
        )
    step = "make both with one teacher, with --overwrite for the one to replace"
    require_same_teacher(Origin.of(images), Origin.of(text), step=step)
    spec = ColumnSpec(
        name=str(ColumnName("priors/clip", name)),
        table="images x concepts",
        rows=len(index),
        width=len(index.concepts),
        dtype="float32",
        unit=False,
        has_valid=True,
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
    writer = open_writer(place(data, out), spec, overwrite=overwrite)
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
    return report_of(writer, run, progress, photos=len(index))
