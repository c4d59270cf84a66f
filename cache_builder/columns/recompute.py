"""Whether the columns of a data set still are what their teacher says: what `cckt cache verify` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.crops import CROWD, SMALL, CropReader
from cckt.cache_builder.columns.images import ImageReader
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import load_or_reason
from cckt.cache_builder.presence import clip_probability
from cckt.cache_builder.runner import Item
from cckt.cache_builder.store import (
    ColumnName,
    ColumnSpec,
    VerifyReport,
    column_info,
    list_columns,
    open_column,
    parse_name,
    verify_column,
)
from cckt.cache_builder.store.block import NOT_FINITE
from cckt.cache_builder.store.command import mending_command
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.prompts import embed_concepts, resolve_templates

Again = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Ascending rows (n,) -> their values (n, width), made anew."""

TABLES = {"concepts": lambda index: len(index.concepts), "boxes": lambda index: len(index.box_images)}


def verify_data(
    data: Path,
    names: Sequence[str] | None = None,
    *,
    teacher: str | None = None,
    device: str = "auto",
    sample: int = 64,
    repair: bool = False,
    progress: Progress | None = None,
) -> Iterator[VerifyReport]:
    """Verify columns (all, or `names`) against their manifests, the index, and `sample` rows made again.

    teacher: None takes the one that a column names; where that cannot be had the rows are not made again and
    a note says so. A teacher that is named here must be the column's. sample 0 asks no teacher at all.
    repair: mark wrong chunks missing, so that the column's own command makes them, and only them; chunks with
    rows of photos that were bad and can be read now count as wrong.

    Raises UserError where there is no index or no such column, and for a teacher that cannot be loaded or
    whose weights are not the column's.
    """
    index, progress = open_index(data), progress or Silent()
    chosen = list(names or list_columns(data))
    if not chosen:
        raise UserError(f"{data} has an index but no column yet; make one with cckt cache text {data}.")
    loaded: dict[tuple[str, str], Teacher] = {}

    def load(name: str, precision: str) -> Teacher:
        if (name, precision) not in loaded:
            loaded[name, precision] = load_teacher(name, device=device, precision=precision)
        return loaded[name, precision]

    for name in chosen:
        spec = _finished_spec(data, name)
        again = None
        if sample and spec is not None:
            try:
                again = recomputer(index, spec, teacher, load)
            except UserError as error:
                if teacher is not None:
                    raise
                progress.note(f"{name} is not made again: {error}")
        yield verify_column(
            data,
            name,
            index_digest=index.digest,
            table_rows=TABLES.get(spec.table if spec else "", len)(index),
            recompute=again,
            sample=sample,
            repair=repair,
            mended=mended_rows(index, spec, data) if repair and spec is not None else None,
            progress=progress,
        )


def recomputer(
    index: Index, spec: ColumnSpec, teacher: str | None, load: Callable[[str, str], Teacher]
) -> Again | None:
    """How to make rows of a column again; None for one that no CLIP teacher of ours made (an imported table).

    Raises UserError where the teacher cannot be had, has other weights, or the columns that the priors came
    from are gone or others.
    """
    recipe = spec.recipe
    name = parse_name(spec.name)
    if name is None:
        return None
    if name.kind == "priors/clip":
        return _priors_again(index, spec, name.label)
    known = recipe.get("teacher")
    if not isinstance(known, dict) or "import" in recipe or name.kind not in ("text", "crops", "images"):
        return None
    mind = load(teacher or known["name"], known.get("precision", "fp32"))
    if mind.weight_digest != known["weight_digest"]:
        raise UserError(
            f"teacher {mind.name} has the weights {mind.weight_digest}, but column {spec.name} of "
            f"{index.folder} was made with {known['name']} ({known['weight_digest']}); name that teacher."
        )
    if name.kind == "text":
        templates = resolve_templates(recipe["templates"]["patterns"])
        synonyms = bool(recipe.get("synonyms"))
        return lambda rows: embed_concepts(
            [index.concepts[int(row)] for row in rows], templates, mind.encode_texts, synonyms=synonyms
        )
    fast = "fast" in recipe
    if name.kind == "images":
        read_photo = ImageReader(index, mind.preprocess, fast=fast)
        return lambda rows: _encoded(mind, [item for row in rows for item in read_photo(row, row + 1)])
    read_box = CropReader(index, mind.preprocess, recipe["crop"]["rule"], view=name.view, fast=fast)
    return lambda rows: _encoded(mind, [item for row in rows for item in read_box(row, row + 1)])


def mended_rows(index: Index, spec: ColumnSpec, data: Path) -> dict[int, str]:
    """Rows of crops or images that lack a value for a photo's sake, whose photo can be read by now; row ->
    what it was noted for.
    """
    name = parse_name(spec.name)
    if name is None or name.kind not in ("crops", "images"):
        return {}
    notes = column_info(data, spec.name).manifest.notes
    faults = {row: why for row, why in notes.items() if why not in (CROWD, SMALL, NOT_FINITE)}
    photo = {row: int(index.box_images[row]) if name.kind == "crops" else row for row in faults}
    readable = {image for image in set(photo.values()) if not isinstance(load_or_reason(index, image), str)}
    return {row: why for row, why in faults.items() if photo[row] in readable}


def _encoded(teacher: Teacher, items: Sequence[Item]) -> NDArray[np.float32]:
    """(n, D): rows of zeros where a photo can no longer be read, which no cosine forgives."""
    rows = np.zeros((len(items), teacher.width), np.float32)
    good = [at for at, item in enumerate(items) if item.data is not None]
    if good:
        rows[good] = teacher.encode_images(np.stack([items[at].data for at in good]))
    return rows


def _priors_again(index: Index, spec: ColumnSpec, label: str) -> Again:
    made_from = spec.recipe["from"]
    columns = {}
    for name in ("images", "text"):
        column = str(ColumnName(name, label))
        columns[name] = open_column(index.folder, column, index_digest=index.digest)
        found = columns[name].manifest.digest
        if found != made_from[name]:
            raise UserError(
                f"column {spec.name} of {index.folder} was made from another column {column} "
                f"({made_from[name]}, now {found}); make it again with "
                f"{mending_command(str(index.folder), spec.name, spec.recipe)} --overwrite."
            )
    text, tau = columns["text"].all(), float(spec.recipe["tau"])
    return lambda rows: clip_probability(columns["images"].take(rows), text, tau)


def _finished_spec(data: Path, name: str) -> ColumnSpec | None:
    """None where the manifest cannot be trusted or the column is not finished: verify says what is wrong."""
    try:
        manifest = column_info(data, name).manifest
    except UserError:
        return None
    return manifest.spec if manifest.finished else None
