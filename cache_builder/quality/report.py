"""How good the priors of a data set are, before anything is trained on them: every source side by side.

Needs the columns and the index, no model. The oracle, which is the annotations themselves, stands beside
them as the bound: with `limit` concepts a photo even it may miss some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.presence import oracle_presence
from cckt.cache_builder.quality.existence import ExistenceFigures, existence_report, known_pairs
from cckt.cache_builder.quality.pope import KINDS, PopeFigures, pope_report
from cckt.cache_builder.store import column_info, list_columns, open_column

ORACLE = "oracle"
RHO, LIMIT = 0.70, 6
"""METHOD.md section 3, for COCO."""


@dataclass(frozen=True)
class PriorReport:
    """The figures of one source of priors.

    source: "clip", "mllm", "clip-LABEL" or "oracle". photos: that it has priors of. existence: by split, at
    `rho` within `limit`. pope: by kind of negatives and split; yes is p >= rho.
    """

    source: str
    photos: int
    existence: dict[str, ExistenceFigures]
    pope: dict[str, dict[str, PopeFigures]]

    def to_json(self) -> dict[str, Any]:
        """Plain figures."""
        return {
            "photos": self.photos,
            "existence": {split: found.to_json() for split, found in self.existence.items()},
            "pope": {
                kind: {split: found.to_json() for split, found in splits.items()}
                for kind, splits in self.pope.items()
            },
        }


@dataclass(frozen=True)
class PriorReports:
    """All sources on one data set, at one pair of thresholds, over the same photos."""

    data: Path
    rho: float
    limit: int
    sources: tuple[PriorReport, ...]
    notes: tuple[str, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were measured, without "all"."""
        return tuple(split for split in self.sources[0].existence if split != "all")

    def existence_rows(self) -> list[tuple[object, ...]]:
        """(source and split, precision, recall, F1, AP), a row each."""
        return [
            (f"{one.source}, {split}", found.precision, found.recall, found.f1, found.ap)
            for split in (*self.splits, "all")
            for one in self.sources
            for found in (one.existence[split],)
        ]

    def pope_rows(self) -> list[tuple[object, ...]]:
        """(source and split, then F1 under each of KINDS), a row each; accuracy and more are in the JSON."""
        return [
            (f"{one.source}, {split}", *(one.pope[kind][split].f1 for kind in KINDS))
            for split in (*self.splits, "all")
            for one in self.sources
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain figures: the thresholds, and each source by its name."""
        return {
            "data": str(self.data),
            "rho": self.rho,
            "limit": self.limit,
            "notes": list(self.notes),
            "sources": {one.source: one.to_json() for one in self.sources},
        }


def report_priors(
    data: Path, sources: Sequence[str] | None = None, *, rho: float = RHO, limit: int = LIMIT
) -> PriorReports:
    """Measure the priors of the data set `data` against the annotations of its index.

    sources: names of columns under priors/ ("clip", "mllm"); None: all that are finished. The oracle always
    comes last. rho, limit: what counts as present (METHOD.md section 3). Only photos of which every source
    has priors are counted, so that the sources stand on the same questions. An index kept base knows no
    novel box, so its novel concepts are left out.

    Raises UserError where a column is missing or of another index, nothing is annotated, or a threshold is
    none.
    """
    if not 0 <= rho <= 1:
        raise UserError(f"--rho is {rho}; give a probability from 0 to 1, such as {RHO}.")
    if limit < 1:
        raise UserError(f"--limit is {limit}; give at least 1 concept a photo, such as {LIMIT}.")
    index = open_index(data)
    presence = oracle_presence(index)
    known = known_pairs(index, presence)
    splits, notes = _splits(index)
    asked = np.concatenate([np.zeros(0, np.int64), *splits.values()])
    if not presence[:, asked].any():
        raise UserError(
            f"{data}: its index holds no box of a base or novel concept, so there is nothing to measure "
            "priors against; build it from annotations, with a --split that names them."
        )
    if sources is None:
        sources, unfinished = _finished(data)
        notes += [f"column priors/{name} is not finished and left out" for name in unfinished]
    found: dict[str, NDArray[np.float32]] = {}
    both, counts = np.ones(len(index), bool), {ORACLE: len(index)}
    for source in sources:
        column = open_column(data, f"priors/{source}", index_digest=index.digest)
        valid = column.valid_all()
        found[source], counts[source] = column.all(), int(valid.sum())
        both &= valid
    if not both.all():
        notes.append(f"{int((~both).sum())} photos lack priors of some source and do not count")
    found[ORACLE] = presence.astype(np.float32)
    return PriorReports(
        data,
        rho,
        limit,
        tuple(
            PriorReport(
                source,
                counts[source],
                existence_report(priors, presence, splits, rho=rho, limit=limit, valid=both, known=known),
                # The oracle says 0 or 1: above 0 any threshold gives its own answers.
                pope_report(
                    priors,
                    presence,
                    splits,
                    threshold=max(rho, 1e-6),
                    image_ids=index.image_ids,
                    valid=both,
                    known=known,
                ),
            )
            for source, priors in found.items()
        ),
        tuple(notes),
    )


def _splits(index: Index) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Concept rows by split, of the splits whose boxes the index holds; and what to say of the others."""
    splits = {split: index.rows(split) for split in ("base", "novel")}
    notes = []
    if index.keep == "base" and len(splits["novel"]):
        splits.pop("novel")
        notes.append("kept base: the index knows no novel box, so novel concepts are not measured")
    return {split: rows for split, rows in splits.items() if len(rows)}, notes


def _finished(data: Path) -> tuple[list[str], list[str]]:
    """(finished, unfinished) sources of priors in a data set's folder."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in list_columns(data):
        if name.startswith("priors/"):
            found[column_info(data, name).manifest.finished].append(name.removeprefix("priors/"))
    return found[True], found[False]
