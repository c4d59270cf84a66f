"""Measure all priors of a data set against its annotations, one source next to the other.

Needs the columns and the index, no model. The oracle (the annotations themselves) is the upper bound; with
`limit` concepts per image even the oracle may miss some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import LIMIT, RHO
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.presence import known_pairs, oracle_presence
from cckt.cache_builder.quality.existence import (
    ExistenceMetrics,
    existence_report,
)
from cckt.cache_builder.quality.pope import KINDS, PopeMetrics, pope_report
from cckt.cache_builder.store import column_info, list_columns, open_column

ORACLE = "oracle"


@dataclass(frozen=True)
class PriorReport:
    """The metrics of one source of priors."""

    source: str
    """"clip", "mllm", "clip-LABEL" or "oracle"."""
    photos: int
    """Images for which the source has priors."""
    existence: dict[str, ExistenceMetrics]
    """By split."""
    pope: dict[str, dict[str, PopeMetrics]]
    """By kind of negatives and split; the answer is yes for priors of at least rho."""

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values."""
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
    """All sources on one data set, with the same thresholds and images."""

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
        """Return one row per source and split: (name, precision, recall, F1, AP)."""
        return [
            (f"{one.source}, {split}", found.precision, found.recall, found.f1, found.ap)
            for split in (*self.splits, "all")
            for one in self.sources
            for found in (one.existence[split],)
        ]

    def pope_rows(self) -> list[tuple[object, ...]]:
        """Return one row per source and split: (name, F1 for each of KINDS). The JSON holds all metrics."""
        return [
            (f"{one.source}, {split}", *(one.pope[kind][split].f1 for kind in KINDS))
            for split in (*self.splits, "all")
            for one in self.sources
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the thresholds and the metrics of each source as JSON values."""
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

    sources: names of columns under priors/ ("clip", "mllm"); default all finished ones. The oracle is last.
    rho, limit: select the present concepts of an image (docs/method/cckt_det.md, eq. 7).

    Only images with priors of every source count, so that all sources are measured on the same questions. An
    index built with `keep="base"` holds no novel box, so novel concepts are not measured there.

    Raises UserError where a column is missing or of another index, nothing is annotated, or a threshold is
    out of range.
    """
    if not 0 <= rho <= 1:
        raise UserError(f"--rho is {rho}; give a probability from 0 to 1, such as {RHO}.")
    if limit < 1:
        raise UserError(f"--limit is {limit}; give at least 1 concept a photo, such as {LIMIT}.")
    index = open_index(data)
    presence = oracle_presence(index)
    known = known_pairs(index)
    splits, notes = _splits(index)
    scored = np.concatenate([np.zeros(0, np.int64), *splits.values()])
    if not presence[:, scored].any():
        raise UserError(
            f"{data}: its index holds no box of a base or novel concept, so there is nothing to measure "
            "priors against; build it from annotations, with a --split that names such concepts."
        )
    if sources is None:
        sources, unfinished = _finished(data)
        notes += [f"column priors/{name} is not finished, so it is not measured" for name in unfinished]
    found: dict[str, NDArray[np.float32]] = {}
    complete, counts = np.ones(len(index), bool), {ORACLE: len(index)}
    for source in sources:
        column = open_column(data, f"priors/{source}", index_digest=index.digest, prove=True)
        valid = column.valid_all()
        found[source], counts[source] = column.all(), int(valid.sum())
        complete &= valid
    if not complete.all():
        notes.append(
            f"{counted(int((~complete).sum()), 'photo lacks', 'photos lack')} priors of some source and "
            f"{'is' if (~complete).sum() == 1 else 'are'} not counted"
        )
    found[ORACLE] = presence.astype(np.float32)
    return PriorReports(
        data,
        rho,
        limit,
        tuple(
            PriorReport(
                source,
                counts[source],
                existence_report(priors, presence, splits, rho=rho, limit=limit, valid=complete, known=known),
                # The oracle's priors are 0 and 1: any threshold above 0 separates them.
                pope_report(
                    priors,
                    presence,
                    splits,
                    threshold=max(rho, 1e-6),
                    image_ids=index.image_ids,
                    valid=complete,
                    known=known,
                ),
            )
            for source, priors in found.items()
        ),
        tuple(notes),
    )


def _splits(index: Index) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Return the concept rows of the splits whose boxes the index holds, and notes about the others."""
    splits = {split: index.rows(split) for split in ("base", "novel")}
    notes = []
    if index.keep == "base" and len(splits["novel"]):
        splits.pop("novel")
        notes.append(
            "the index was built with --keep base and holds no novel box, so novel concepts are not measured"
        )
    return {split: rows for split, rows in splits.items() if len(rows)}, notes


def _finished(data: Path) -> tuple[list[str], list[str]]:
    """Return the finished and the unfinished sources of priors of a data set."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in list_columns(data):
        if name.startswith("priors/"):
            found[column_info(data, name).manifest.finished].append(name.removeprefix("priors/"))
    return found[True], found[False]
