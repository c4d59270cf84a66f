"""Export a column as a table of another program: `cckt cache export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.atomic_files import is_stream
from cckt.cache_builder.base.disk_faults import explained_faults, require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import require_ours_or_absent
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.columns.growth.tables import table_of
from cckt.cache_builder.columns.views import BoxTable, index_of
from cckt.cache_builder.proposals import Proposals
from cckt.cache_builder.store import Column, open_column
from cckt.cache_builder.store.exchange.npy_out import MADE, write_npy
from cckt.cache_builder.store.exchange.parquet_out import (
    Beside,
    parquet_mark,
    require_pyarrow,
    write_parquet,
)

FORMATS = ("parquet", "npy")

RESIDENT = 64 << 20
"""Bytes of a mapped column that an export keeps in memory: it reads each chunk once."""


def export_column(
    data: Path | str, name: str, out: Path, form: str = "parquet", progress: Progress | None = None
) -> list[Path]:
    """Write the finished column `name` of a data set to `out` with ids, names and boxes; return the files.

    form: one of FORMATS; see `write_parquet` and `write_npy`. Memory is that of one chunk. Raises UserError
    for an unknown format, a missing or unfinished column, a file of somebody else in the place of one
    of ours, a device or a pipe, or a full disk.
    """
    if form not in FORMATS:
        raise UserError(f"--format is {form!r}; choose one of {', '.join(FORMATS)}.")
    with explained_faults(out):
        if is_stream(out):
            raise UserError(f"--out {out}: is a device or a pipe, expected a file; name a file.")
    column = open_column(data, name, resident=RESIDENT, prove=True)
    spec = column.manifest.spec
    table = table_of(Path(data), data, spec)
    require_room(out.parent, sum(spec.n_chunks * spec.chunk_bytes(array) for array in spec.arrays))
    if form == "parquet":
        require_pyarrow()
        require_ours_or_absent(out, parquet_mark(), MADE)
        write_parquet(column, out, beside(table, column), progress)
        return [out]
    if out.suffix != ".npy":
        raise UserError(f"--out {out} does not end in .npy; give a name that does.")
    return write_npy(column, out, beside(table, column), progress)


def beside(table: BoxTable, column: Column) -> Beside:
    """Return what an export holds beside each vector, by the table of the column."""
    index, kind = index_of(table), column.manifest.spec.table
    names = np.array(index.concepts.names, object)
    ids = np.asarray(index.concepts.category_ids)

    def of_boxes(lo: int, hi: int) -> dict[str, Any]:
        images, concepts = index.box_images[lo:hi], index.box_concepts[lo:hi]
        return {
            "annotation_id": np.asarray(index.annotation_ids[lo:hi]),
            "image_id": np.asarray(index.image_ids[images]),
            "file_name": [index.file_name(image) for image in images.tolist()],
            "category_id": ids[concepts],
            "concept": names[concepts].tolist(),
            "box_xyxy": np.asarray(index.box_xyxy[lo:hi]),
            "iscrowd": np.asarray(index.iscrowd[lo:hi]),
        }

    def of_images(lo: int, hi: int) -> dict[str, Any]:
        return {
            "image_id": np.asarray(index.image_ids[lo:hi]),
            "file_name": [index.file_name(image) for image in range(lo, hi)],
            "width": np.asarray(index.widths[lo:hi]),
            "height": np.asarray(index.heights[lo:hi]),
        }

    def of_concepts(lo: int, hi: int) -> dict[str, Any]:
        return {"category_id": ids[lo:hi], "concept": names[lo:hi].tolist()}

    def of_proposals(lo: int, hi: int) -> dict[str, Any]:
        assert isinstance(table, Proposals), "expected the proposals of the column"
        images = table.box_images[lo:hi]
        return {
            "image_id": np.asarray(index.image_ids[images]),
            "file_name": [index.file_name(image) for image in images.tolist()],
            "rank": table.ranks[lo:hi],
            "score": table.scores[lo:hi],
            "box_xyxy": table.box_xyxy[lo:hi],
            "repeats": table.repeats[lo:hi],
        }

    def of_nouns(lo: int, hi: int) -> dict[str, Any]:
        return {"noun": list(column.manifest.spec.recipe["names"][lo:hi])}

    known = {"boxes": of_boxes, "concepts": of_concepts, "proposals": of_proposals, "nouns": of_nouns}
    return known.get(kind, of_images)
