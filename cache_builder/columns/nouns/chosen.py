"""The columns `proposals/nouns` and `proposals/noun_texts`: the noun of each proposal, and its embedding.

docs/method/hd_ovd.md, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import BATCH
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.columns.growth.begin import begin_column
from cckt.cache_builder.columns.remake import Made, Remake
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.proposals import Proposals
from cckt.cache_builder.proposals.nouns import NOUNS, TEXTS
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import (
    ColumnName,
    ColumnSpec,
    OtherColumn,
    column_info,
    column_spec,
    list_columns,
)
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.prompts import Templates, embed_concepts, resolve_templates
from cckt.cache_builder.vocabulary import Concept

ROWS = 65536
"""Proposals of a chunk of nouns: quick to make from answers."""

CHANGING = ("answers", "crops", "names")
"""Entries of the recipe of nouns that other proposals change."""

TEXT_ROWS = 64
"""Nouns of a chunk of texts."""


@dataclass(frozen=True)
class Chosen:
    """Which noun each of P proposals has."""

    ids: NDArray[np.int64]
    """(P,) row of `names`; -1: none."""
    names: list[str]
    reasons: dict[int, str]
    """Proposal without a noun -> why."""
    recipe: dict[str, Any]


def embed_names(names: Sequence[str], templates: Templates, teacher: Teacher) -> NDArray[np.float32]:
    """Return (U, D) float32 unit embeddings of names (docs/method/hd_ovd.md, eq. 6)."""
    return embed_concepts(
        [Concept(row, name) for row, name in enumerate(names)], templates, teacher.encode_texts
    )


def remake_noun_texts(made: Made) -> Remake | None:
    """See `recompute.REMAKE`."""
    teacher = made.teacher()
    if teacher is None:
        return None
    names = made.spec.recipe["names"]
    templates = resolve_templates(made.spec.recipe["templates"]["patterns"])
    return lambda rows: embed_names([names[int(row)] for row in rows], templates, teacher)


def require_replaceable(data: Path, proposals: Proposals, label: str, recipe: Mapping[str, Any]) -> None:
    """Raise UserError if the nouns of the data set are of another maker than `recipe`: before hours of work.

    recipe: as in `Chosen`, without what is known only when the nouns are chosen.
    """
    name = ColumnName(NOUNS, label, of=proposals.label)
    if str(name) not in list_columns(data):
        return
    found = column_info(data, str(name)).manifest.spec
    wanted = _nouns_spec(proposals, label, recipe)
    known = {key: value for key, value in found.recipe.items() if key not in CHANGING}
    if known != wanted.recipe:
        raise OtherColumn(str(data / str(name)), replace(found, recipe=known), wanted, str(data))


def _nouns_spec(proposals: Proposals, label: str, recipe: Mapping[str, Any]) -> ColumnSpec:
    return column_spec(
        ColumnName(NOUNS, label, of=proposals.label),
        rows=len(proposals),
        width=1,
        chunk_rows=ROWS,
        index_digest=proposals.digest,
        recipe=recipe,
    )


def write_nouns(
    data: Path,
    proposals: Proposals,
    label: str,
    chosen: Chosen,
    overwrite: bool,
    progress: Progress,
    notes: Sequence[str],
) -> CacheReport:
    """Make the column `proposals/nouns`: (P, 1) int32."""
    spec = _nouns_spec(proposals, label, {**chosen.recipe, "names": chosen.names})

    def read(lo: int, hi: int) -> Iterable[Item]:
        return [
            Item(row, int(chosen.ids[row])) if chosen.ids[row] >= 0 else Item(row, reason=chosen.reasons[row])
            for row in range(lo, hi)
        ]

    def as_numbers(items: list[int]) -> NDArray[np.float32]:
        return np.array(items, np.float32)[:, None]

    assert len(chosen.names) < 2**24, "expected numbers that float32 holds exactly"
    expected = tuple(set(chosen.reasons.values()))
    return _write(data, proposals, spec, read, as_numbers, overwrite, progress, "proposals", notes, expected)


def write_texts(
    data: Path,
    proposals: Proposals,
    label: str,
    chosen: Chosen,
    templates: Templates,
    teacher: Teacher,
    overwrite: bool,
    progress: Progress,
) -> CacheReport:
    """Make the column `proposals/noun_texts`: (U, D) float32 unit."""
    spec = column_spec(
        ColumnName(TEXTS, label, of=proposals.label),
        rows=len(chosen.names),
        width=teacher.width,
        chunk_rows=TEXT_ROWS,
        index_digest=proposals.digest,
        recipe={
            "teacher": teacher.recipe(),
            "templates": {
                "name": templates.name,
                "patterns": templates.patterns,
                "digest": templates.digest,
            },
            "normalisation": "unit",
            "batch": BATCH,
            **{
                key: chosen.recipe[key]
                for key in ("model", "prompt", "crop", "provenance")
                if key in chosen.recipe
            },
            "names": chosen.names,
        },
    )

    def read(lo: int, hi: int) -> Iterable[Item]:
        return [Item(row, chosen.names[row]) for row in range(lo, hi)]

    def embed(names: list[str]) -> NDArray[np.float32]:
        return embed_names(names, templates, teacher)

    return _write(data, proposals, spec, read, embed, overwrite, progress, "nouns")


def _write(
    data: Path,
    proposals: Proposals,
    spec: ColumnSpec,
    read: Callable[[int, int], Iterable[Item]],
    map: Callable[[list[Any]], NDArray[np.float32]],
    overwrite: bool,
    progress: Progress,
    unit: str,
    notes: Sequence[str] = (),
    expected: Sequence[str] = (),
) -> CacheReport:
    """Make a quick column whole, whatever the part of this process: all makers write the same bytes."""
    growth = begin_column(data, data, spec, proposals, overwrite=overwrite, changing=CHANGING, copies=False)
    writer = growth.writer
    run = run_chunks(
        writer, read, map, batch=spec.chunk_rows, workers=0, part=(0, 1), progress=progress, unit=unit
    )
    growth.finish(run.manifest)
    return report_of(writer, run, progress, notes, expected=expected)
