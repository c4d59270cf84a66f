"""The column `proposals/noun_weights`: how much the noun of each proposal counts, with fitted constants.

docs/method/hd_ovd.md, eqs. 11 and 12. Its recipe holds the constants, which are fitted to the teacher on
annotated objects of concepts that are not novel: cosines of their crops (column `crops`) with their own name,
against those with the best wrong name (column `text`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import W_MAX
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.crops import box_table
from cckt.cache_builder.columns.growth.begin import begin_column
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.proposals import Proposals
from cckt.cache_builder.proposals.noun_weight import NounWeight, fit_noun_weight
from cckt.cache_builder.proposals.nouns import NOUNS, TEXTS, WEIGHTS, Nouns, open_nouns, open_over
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import (
    Column,
    ColumnName,
    Origin,
    check_label,
    column_spec,
    command_for_missing,
    list_columns,
    open_column,
    repair_command,
    require_same_teacher,
)
from cckt.cache_builder.store.kinds import PROPOSALS

ROWS = 65536
"""Proposals of a chunk."""

OBJECTS = 20_000
"""Annotated objects of the fit, spread evenly over the table of boxes: plenty for two constants."""

NOT_NAMED = "the proposal has no noun"
NO_CROP = "the proposal has no embedding"


def fit_nouns(
    data: Path,
    *,
    of: str = PROPOSALS,
    name: str = "",
    w_max: float = W_MAX,
    progress: Progress | None = None,
    optional: bool = False,
) -> CacheReport:
    """Fit the constants of eq. 12 and make the column `proposals/noun_weights`: (P, 1) float32.

    of, name: see `cache_nouns`. An older column of weights is replaced: it takes seconds to make. optional: a
    missing column, or a fit that fails, is a note in an empty report, not an error.

    Raises UserError if nouns, texts or crops are missing or of different teachers, if fewer than two concepts
    have annotated objects, and where crops are not nearer to their own names than to wrong ones.
    """
    progress = progress or Silent()
    index = open_index(data)
    proposals = box_table(data, index, of)
    if not isinstance(proposals, Proposals):
        raise UserError(f"--of {of}: nouns are of proposals; name proposals or proposals-NAME.")
    column = ColumnName(WEIGHTS, check_label(name), of=proposals.label)
    crops_of_proposals = ColumnName("proposals/crops", name, of=proposals.label)
    needed = (ColumnName("text", name), ColumnName("crops", name), crops_of_proposals)
    missing = [str(one) for one in needed if str(one) not in list_columns(data)]
    if missing and optional:
        first = command_for_missing(data, missing[0])
        note = (
            f"the weight of nouns is not fitted: there is no column {missing[0]}; run `{first} && "
            f"{repair_command(str(data), str(column))}`"
        )
        progress.note(note)
        return CacheReport(str(column), len(proposals), len(proposals), 0, 0, 0.0, [note], begun=False)
    text, boxes = (open_column(data, str(one), index_digest=index.digest, prove=True) for one in needed[:2])
    crops = open_over(data, proposals, "proposals/crops", name)
    nouns, texts = (open_over(data, proposals, kind, name) for kind in (NOUNS, TEXTS))
    step = "make them with one teacher, with --overwrite for the ones to replace"
    for other in (boxes, crops, texts):
        require_same_teacher(Origin.of(other), Origin.of(text), step=step, imported=True)
    try:
        weight = fit_to(index, boxes, text, w_max, data)
    except UserError as error:
        if not optional:
            raise
        note = f"the weight of nouns is not fitted: {error}"
        progress.note(note)
        return CacheReport(str(column), len(proposals), len(proposals), 0, 0, 0.0, [note], begun=False)
    spec = column_spec(
        column,
        rows=len(proposals),
        width=1,
        chunk_rows=ROWS,
        index_digest=proposals.digest,
        recipe={
            "formula": "w_max * sigmoid((cos(crop, noun) - s0) / s_delta)",
            "weight": weight.to_json(),
            "from": {
                key: one.manifest.digest
                for key, one in (
                    ("nouns", nouns),
                    ("noun_texts", texts),
                    ("proposals/crops", crops),
                    ("crops", boxes),
                    ("text", text),
                )
            },
        },
    )
    read = _reader(open_nouns(data, index, proposals, name, weighed=False), crops, weight)
    growth = begin_column(data, data, spec, proposals, overwrite=True)
    writer = growth.writer
    run = run_chunks(
        writer,
        read,
        lambda items: np.array(items, np.float32)[:, None],
        batch=spec.chunk_rows,
        workers=0,
        part=(0, 1),
        progress=progress,
        unit="proposals",
    )
    growth.finish(run.manifest)
    return report_of(writer, run, progress, [weight.summary()], expected=(NOT_NAMED, NO_CROP))


def _reader(nouns: Nouns, crops: Column, weight: NounWeight) -> Callable[[int, int], Iterable[Item]]:
    def read(lo: int, hi: int) -> Iterable[Item]:
        rows = np.arange(lo, hi)
        part = Nouns(nouns.ids[lo:hi], nouns.names, nouns.embeddings, weight, nouns.provenance, nouns.repair)
        weights, valid = part.weights(crops.take(rows)), crops.valid(rows)
        for row in rows.tolist():
            if nouns.ids[row] < 0:
                yield Item(row, reason=NOT_NAMED)
            elif not valid[row - lo]:
                yield Item(row, reason=NO_CROP)
            else:
                yield Item(row, float(weights[row - lo]))

    return read


def fit_to(index: Index, crops: Column, text: Column, w_max: float, data: Path) -> NounWeight:
    """Fit the constants to the annotated objects of concepts that are not novel.

    Raises UserError if fewer than two of these concepts have an object with an embedding.
    """
    novel = set(index.concepts.rows("novel").tolist())
    concepts = np.array([row for row in range(len(index.concepts)) if row not in novel], np.int64)
    position = np.full(len(index.concepts), -1, np.int64)
    position[concepts] = np.arange(len(concepts))
    rows = np.flatnonzero(crops.valid_all() & (position[index.box_concepts] >= 0))
    named = np.unique(index.box_concepts[rows])
    if len(named) < 2:
        raise UserError(
            f"{data}: the noun weight cannot be fitted, because "
            f"{counted(len(named), 'concept has', 'concepts have')} an annotated "
            "object with an embedding, expected at least 2; annotate more concepts."
        )
    if len(rows) > OBJECTS:
        rows = rows[np.linspace(0, len(rows) - 1, OBJECTS).astype(np.int64)]
    right, wrong = own_and_best_wrong(
        crops.take(rows).astype(np.float32), text.all()[concepts], position[index.box_concepts[rows]]
    )
    return fit_noun_weight(right, wrong, w_max)


def own_and_best_wrong(
    crops: NDArray[np.float32], texts: NDArray[np.float32], own: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the (n,) cosines of crops (n, D) with their own text, and with the best other one.

    texts: (B, D), B >= 2. own: (n,) rows of `texts`. A text equal to a crop's own is no wrong one.
    """
    cosines = crops @ texts.T
    at = np.arange(len(crops))
    right = cosines[at, own].copy()
    same = (texts @ texts.T > 1 - 1e-6)[own]
    cosines[same] = -1
    return right, cosines.max(axis=1)
