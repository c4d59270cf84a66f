"""Verify the columns of a data set against the teacher that made them: what `cckt cache verify` runs.

How rows of a kind are made again is in the kind's own file and found through `REMAKE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.clip_priors import remake_clip_priors
from cckt.cache_builder.columns.crops import CROWD, SMALL, remake_crops
from cckt.cache_builder.columns.images import remake_images
from cckt.cache_builder.columns.nouns.chosen import remake_noun_texts
from cckt.cache_builder.columns.remake import Made, Remake
from cckt.cache_builder.columns.text import remake_text
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import load_or_reason
from cckt.cache_builder.proposals import Proposals, open_proposals
from cckt.cache_builder.store import (
    Manifest,
    VerifyReport,
    all_columns_command,
    column_info,
    list_columns,
    parse_name,
    verify_column,
)
from cckt.cache_builder.store.format.block import NOT_FINITE
from cckt.cache_builder.store.format.spec import OVER_PROPOSALS
from cckt.cache_builder.store.verification.verify import SAMPLE
from cckt.cache_builder.teacher.clip import Teacher, load_teacher

REMAKE: dict[str, Callable[[Made], Remake | None] | None] = {
    "text": remake_text,
    "crops": remake_crops,
    "images": remake_images,
    "priors/clip": remake_clip_priors,
    "priors/mllm": None,
    "proposals/boxes": None,
    "proposals/crops": remake_crops,
    "proposals/answers": None,
    "proposals/nouns": None,
    "proposals/noun_texts": remake_noun_texts,
    "proposals/noun_weights": None,
}
"""Kind of column -> how its rows are made again.

None: they are not. Numbers of nouns and single weights have no direction to compare; an answer of a
multimodal LLM takes seconds; the run or file of proposals is in a folder that no recipe holds."""

TABLE_ROWS: dict[str, Callable[[Made], int]] = {
    "concepts": lambda made: len(made.index.concepts),
    "boxes": lambda made: len(made.index.box_images),
    "images": lambda made: len(made.index),
    "images x concepts": lambda made: len(made.index),
    "proposals": lambda made: len(made.proposals or ()),
    "nouns": lambda made: len(made.spec.recipe.get("names", ())),
}
"""Table -> its number of rows, in the data set of a column."""

IMAGE_OF_ROW: dict[str, Callable[[Made, int], int]] = {
    "boxes": lambda made, row: int(made.table.box_images[row]),
    "proposals": lambda made, row: int(made.table.box_images[row]),
    "images": lambda made, row: row,
}
"""Table of columns that are made from photos -> the image row of one of its rows."""

NOT_THE_PHOTO = (CROWD, SMALL, NOT_FINITE)
"""Reasons of invalid rows that have nothing to do with the photo's file."""


def verify_data(
    data: Path,
    names: Sequence[str] | None = None,
    *,
    teacher: str | None = None,
    device: str = "auto",
    sample: int = SAMPLE,
    repair: bool = False,
    progress: Progress | None = None,
) -> Iterator[VerifyReport]:
    """Verify columns (all, or `names`) against their manifests, the index, and `sample` rows made again.

    teacher: None takes the one that a column names; if it cannot be loaded the rows are not made again, and a
    note reports it. A teacher given here must be the column's. sample: 0 makes no row again.
    repair: mark wrong chunks missing, so that the column's command makes them, and only them; chunks with
    rows of photos that were bad and can be read now count as wrong.

    Raises UserError if the index or a column is missing, and for a teacher given here that cannot be loaded
    or has other weights than the column's.
    """
    index, progress = open_index(data), progress or Silent()
    chosen = list(names or list_columns(data))
    if not chosen:
        raise UserError(f"{data} has an index but no column; make them with {all_columns_command(data)}")
    loaded: dict[tuple[str, str], Teacher] = {}

    def load(name: str, precision: str) -> Teacher:
        if (name, precision) not in loaded:
            loaded[name, precision] = load_teacher(name, device=device, precision=precision)
        return loaded[name, precision]

    for name in chosen:
        manifest = _manifest(data, name)
        remake, recoverable, rows, digest = None, None, None, index.digest
        made = None
        if manifest is not None:
            made = Made(index, manifest.spec, teacher, load, _proposals(data, index, name, manifest))
            rows = TABLE_ROWS[manifest.spec.table](made)
            digest = made.table.digest
        if made is not None and manifest is not None and manifest.finished and manifest.spec.rows == rows:
            if repair:
                recoverable = recoverable_rows(made, manifest)
            try:
                remake = remaker(made) if sample else None
            except UserError as error:
                if teacher is not None:
                    raise
                progress.note(f"{name} is not made again: {error}")
        yield verify_column(
            data,
            name,
            index_digest=digest,
            table_rows=rows,
            recompute=remake,
            sample=sample,
            repair=repair,
            recoverable=recoverable,
            progress=progress,
        )


def remaker(made: Made) -> Remake | None:
    """Return the function that makes rows of a column again; None if there is none for it.

    Raises UserError if the teacher cannot be loaded or has other weights, or if columns that it was made from
    are missing or others.
    """
    name = parse_name(made.spec.name)
    how = REMAKE.get(name.kind) if name else None
    return how(made) if how else None


def recoverable_rows(made: Made, manifest: Manifest) -> dict[int, str]:
    """Return the rows without a value because of a photo that can be read now; row -> its old reason."""
    image_of = IMAGE_OF_ROW.get(manifest.spec.table)
    if image_of is None:
        return {}
    faults = {row: why for row, why in manifest.notes.items() if why not in NOT_THE_PHOTO}
    image = {row: image_of(made, row) for row in faults}
    readable = {one for one in set(image.values()) if not isinstance(load_or_reason(made.index, one), str)}
    return {row: why for row, why in faults.items() if image[row] in readable}


def _proposals(data: Path, index: Index, name: str, manifest: Manifest) -> Proposals | None:
    """The proposals table of a column over proposals; None for another column.

    Raises UserError if the table is missing, unfinished or of another index: the column cannot be verified
    then.
    """
    parts = parse_name(name)
    if manifest.spec.table not in OVER_PROPOSALS or parts is None:
        return None
    return open_proposals(data, index, parts.of)


def _manifest(data: Path, name: str) -> Manifest | None:
    """The manifest of a column; None if it cannot be read: `verify_column` reports why."""
    try:
        return column_info(data, name).manifest
    except UserError:
        return None
