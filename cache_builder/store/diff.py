"""Compare two columns: in which fields they differ, and how far their rows agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.errors import counted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.agreement import Agreement, cosines, summary
from cckt.cache_builder.store.reader import Column, open_column

BLOCK = 4096
"""Rows compared at a time."""

NOT_COMPARED = ("chunks", "documents", "reasons", "finished", "recipe_digest")
"""Fields of a manifest that follow from others, or are lists of digests."""


@dataclass(frozen=True)
class ColumnDiff:
    """Differences of two columns: fields by their path ("recipe.teacher.name"), and rows."""

    fields: tuple[tuple[str, Any, Any], ...]
    """(path, value in a, value in b); a missing field is None."""
    same_bytes: bool
    """Whether every chunk has the same digest."""
    rows: tuple[int, int]
    compared: int
    """Rows valid in both, compared one to one; 0 if table, index or width differ."""
    only_a: int
    """Rows valid only in a."""
    only_b: int
    """Rows valid only in b."""
    agreement: Agreement | None

    def lines(self) -> list[str]:
        """Return the differences as lines of text."""
        lines = [f"{path}: {a!r} against {b!r}" for path, a, b in self.fields]
        if self.same_bytes:
            return [*lines, "the rows are the same, byte for byte"]
        if self.agreement is None:
            return [
                *lines,
                f"{self.rows[0]} against {counted(self.rows[1], 'row')}, not comparable one to one",
            ]
        lines.append(f"valid only in the first {self.only_a}, only in the second {self.only_b}")
        return [*lines, str(self.agreement)]


def diff_columns(
    a: tuple[Path | str, str], b: tuple[Path | str, str], *, progress: Progress | None = None
) -> ColumnDiff:
    """Compare two finished columns, each (data set, name): manifests by field, then rows, in small memory.

    Rows are compared if table, index and width are the same.
    """
    progress = progress or Silent()
    first, second = open_column(*a, prove=True), open_column(*b, prove=True)
    fields = _differences(_fields(first), _fields(second))
    one, two = first.manifest.spec, second.manifest.spec
    same = first.manifest.chunks == second.manifest.chunks and one.arrays == two.arrays
    comparable = (one.table, one.index_digest, one.rows, one.width) == (
        two.table,
        two.index_digest,
        two.rows,
        two.width,
    )
    if same or not comparable:
        valid = first.rows - first.manifest.invalid if same else 0
        return ColumnDiff(tuple(fields), same, (first.rows, second.rows), valid, 0, 0, None)
    valid_a, valid_b = first.valid_all(), second.valid_all()
    found, largest = [], 0.0
    progress.start("compare", first.rows, "rows")
    for lo in range(0, first.rows, BLOCK):
        hi = min(lo + BLOCK, first.rows)
        both = valid_a[lo:hi] & valid_b[lo:hi]
        x, y = first.slice(lo, hi)[both].astype(np.float64), second.slice(lo, hi)[both].astype(np.float64)
        found.append(cosines(x, y))
        largest = max(largest, float(np.abs(x - y).max(initial=0.0)))
        progress.advance(hi - lo)
    progress.finish()
    every = np.concatenate(found) if found else np.empty(0)
    return ColumnDiff(
        fields=tuple(fields),
        same_bytes=False,
        rows=(first.rows, second.rows),
        compared=len(every),
        only_a=int((valid_a & ~valid_b).sum()),
        only_b=int((valid_b & ~valid_a).sum()),
        agreement=summary(every, largest) if len(every) else None,
    )


def _fields(column: Column) -> dict[str, Any]:
    """The fields of a column that are compared."""
    return {key: value for key, value in column.manifest.fields().items() if key not in NOT_COMPARED}


def _differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves that differ, depth first, keys sorted."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [
            found
            for key in sorted({*a, *b})
            for found in _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if a == b else [(path, a, b)]
