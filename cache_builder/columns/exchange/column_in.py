"""Make a column from a table of vectors that were made elsewhere: `cckt cache import`."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import CHUNK_ROWS
from cckt.cache_builder.base.digests import digest_of, file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.growth.begin import begin_column
from cckt.cache_builder.columns.views import usable_boxes
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import KINDS, column_spec, parse_name
from cckt.cache_builder.store.exchange.tables_in import VectorTable
from cckt.cache_builder.store.format.manifest import Manifest

NORM_TOLERANCE = 1e-2
"""Largest deviation from length 1 that counts as rounding; such rows are scaled to length 1."""


def import_column(
    data: Path,
    name: str,
    table: Path,
    *,
    made_by: str,
    teacher: str | None = None,
    ids: Path | None = None,
    id_name: str | None = None,
    vector_name: str = "vector",
    partial: bool = False,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    progress: Progress | None = None,
) -> Manifest:
    """Make the column `name`, crops or images, from a table of (annotation id or image id, vector) rows.

    table, ids, id_name, vector_name: see `VectorTable`; the order of the rows does not matter. made_by: how
    the vectors were made, in words, for the recipe. teacher: name of the teacher, if it can be loaded here;
    without it the column cannot be compared with a text column. partial: leave rows that the table lacks
    invalid. A vector whose length deviates from 1 by rounding is scaled.

    Raises UserError, before the column is begun, for an id that is unknown or listed twice, a row without a
    vector (unless `partial`; boxes that get no embedding need none), vectors of another width than the
    teacher's, and vectors that are not finite or not of length 1.
    """
    parsed = parse_name(name)
    if parsed is None or parsed.kind not in ("crops", "images"):
        raise UserError(
            f"{name!r} cannot be imported; give crops or images, or one with a label: crops-mine."
        )
    if not made_by.strip():
        raise UserError("--made-by is empty; describe model, weights and preprocessing in a few words.")
    index, progress = open_index(data), progress or Silent()
    boxes = KINDS[parsed.kind].table == "boxes"
    key = "annotation_id" if boxes else "image_id"
    most = len(index.annotation_ids if boxes else index.image_ids)
    vectors = VectorTable(table, ids, id_name or key, vector_name, most)
    loaded = None
    if teacher is not None:
        # Imports torch: 0.7 GB that a table without a teacher does not need.
        from cckt.cache_builder.columns.options import as_teacher

        loaded = as_teacher(teacher, "cpu", "fp32")
    if loaded is not None and loaded.width != vectors.width:
        raise UserError(
            f"{table} holds vectors of {vectors.width} values, but embeddings of teacher {loaded.name} have "
            f"{loaded.width}; name the teacher that the table was made with."
        )
    rows = _rows_of(vectors, np.asarray(index.annotation_ids if boxes else index.image_ids), key)
    expected = usable_boxes(index) if boxes else np.ones(len(index), bool)
    covered = np.zeros(len(expected), bool)
    covered[rows] = True
    lacking = np.flatnonzero(expected & ~covered)
    if len(lacking) and not partial:
        number = int((index.annotation_ids if boxes else index.image_ids)[lacking[0]])
        raise UserError(
            f"{table} has no vector for {len(lacking)} of {int(expected.sum())} rows (the first is {key} "
            f"{number}), expected all; add the rows, or add --partial to leave them without a value."
        )
    spec = column_spec(
        parsed,
        rows=len(expected),
        width=vectors.width,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={
            "teacher": loaded.recipe() if loaded else None,
            "import": {
                "file": table.name,
                "digest": file_digest(table),
                "ids": digest_of(np.ascontiguousarray(vectors.ids, "<i8").tobytes()),
                **({"vector": vector_name} if table.suffix == ".parquet" else {}),
                "made_by": made_by.strip(),
            },
            "normalisation": "unit",
        },
    )
    with tempfile.TemporaryFile(dir=data) as spool:
        _spool(vectors, rows, spool, spec.arrays["values"][1], progress)
        growth = begin_column(data, data, spec, index, overwrite=overwrite, copies=False)
        writer = growth.writer
        for chunk in writer.missing():
            lo, hi = spec.bounds(chunk)
            spool.seek(lo * vectors.width * spec.arrays["values"][1].itemsize)
            values = np.zeros((hi - lo, vectors.width), spec.arrays["values"][1])
            held = np.frombuffer(spool.read(values.nbytes), values.dtype)
            values.reshape(-1)[: len(held)] = held  # the file ends with the last row that has a vector
            writer.write(chunk, values, covered[lo:hi])
        manifest = writer.finish()
        growth.finish(manifest)
        return manifest


def _rows_of(vectors: VectorTable, known: NDArray[np.int64], key: str) -> NDArray[np.int64]:
    """(N,) rows of the ids of a table; UserError for an unknown id or one that is listed twice."""
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known[order], vectors.ids)
    rows = order[np.minimum(at, max(len(order) - 1, 0))] if len(order) else np.zeros(0, np.int64)
    wrong = known[rows] != vectors.ids if len(order) else np.ones(len(vectors.ids), bool)
    if wrong.any():
        raise UserError(
            f"{vectors.path} holds {int(wrong.sum())} unknown values of {key} (the first is "
            f"{int(vectors.ids[np.flatnonzero(wrong)[0]])}), expected ids of the data set; check that it was "
            "made for this data set."
        )
    once, counts = np.unique(vectors.ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{vectors.path} holds {key} {int(once[counts > 1][0])} {int(counts.max())} times, expected each "
            "id once; remove the others."
        )
    return rows


def _spool(
    vectors: VectorTable, rows: NDArray[np.int64], spool: Any, dtype: np.dtype[Any], progress: Progress
) -> None:
    """Write the checked vectors to a file, each at the place of its row."""
    progress.start("read vectors", len(rows), "rows")
    size = vectors.width * dtype.itemsize
    for at, block in vectors.blocks():
        lengths = np.linalg.norm(block.astype(np.float64), axis=1)
        bad = ~(np.abs(lengths - 1) <= NORM_TOLERANCE)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            what = f"has length {lengths[first]:.4g}" if np.isfinite(lengths[first]) else "is not finite"
            raise UserError(
                f"{vectors.path}: the vector of id {int(vectors.ids[at + first])} {what}, expected length 1; "
                "divide each vector by its length."
            )
        exact = np.abs(lengths - 1) <= 1e-3  # of an export: equal to the bit
        unit = np.where(exact[:, None], block, block / lengths[:, None]).astype(dtype)
        mine = rows[at : at + len(block)]
        order = np.argsort(mine, kind="stable")
        starts = [0, *(np.flatnonzero(np.diff(mine[order]) != 1) + 1).tolist(), len(order)]
        for lo, hi in itertools.pairwise(starts):
            if lo < hi:
                spool.seek(int(mine[order[lo]]) * size)
                spool.write(np.ascontiguousarray(unit[order[lo:hi]]).data)
        progress.advance(len(block))
    progress.finish()
