"""What columns there are, what each one is, and in what two of them differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.agreement import Agreement, cosines, summary
from cckt.cache_builder.store.command import mending_command
from cckt.cache_builder.store.manifest import GROUP, Manifest, read_manifest
from cckt.cache_builder.store.places.files import LocalFiles, open_files
from cckt.cache_builder.store.reader import Column, open_column
from cckt.cache_builder.store.spec import from_runs, some_runs
from cckt.cache_builder.store.writer import ColumnWriter


@dataclass(frozen=True)
class ColumnInfo:
    """A column as `cckt cache info` tells it."""

    place: str
    manifest: Manifest
    bytes: int
    """Of all its files."""
    missing: tuple[int, ...]
    """Chunks still to be made; empty where finished."""
    command: str
    """The command that makes or finishes it."""

    def lines(self) -> list[str]:
        """For a person."""
        spec = self.manifest.spec
        state = (
            "finished" if self.manifest.finished else f"not finished, lacks chunks {some_runs(self.missing)}"
        )
        if not self.manifest.finished and not self.missing:
            state = "not closed"
        lines = [
            f"{self.place}: {state}",
            f"  {spec.rows} x {spec.width} {spec.dtype} over {spec.table}, {spec.n_chunks} chunks of "
            f"{spec.chunk_rows}, {self.bytes / 1e6:.1f} MB, {self.manifest.invalid} rows invalid",
            f"  index {spec.index_digest}",
            f"  recipe {spec.recipe_digest}",
        ]
        lines += [f"    {key}: {value}" for key, value in _leaves(spec.recipe)]
        if self.manifest.versions:
            lines.append("  made with " + ", ".join(f"{k} {v}" for k, v in self.manifest.versions.items()))
        for reason, runs in list(self.manifest.reasons.items())[:20]:
            rows = list(from_runs(runs))
            lines.append(f"  {len(rows)} rows ({some_runs(rows)}): {reason}")
        if not self.manifest.finished:
            lines.append(f"  run `{self.command}` to finish it")
        return lines


def column_info(data: Path | str, name: str) -> ColumnInfo:
    """What a column is, finished or not. UserError where there is none."""
    files = open_files(data, name)
    manifest = read_manifest(files)
    if manifest is None:
        known = ", ".join(list_columns(data)) or "none"
        raise UserError(
            f"There is no column {name} under {data}: found {known}; make it with "
            f"`{mending_command(str(data), name)}`."
        )
    missing = [] if manifest.finished else ColumnWriter(files, manifest, str(data)).missing()
    command = mending_command(str(data), name, manifest.spec.recipe)
    return ColumnInfo(files.place, manifest, sum(files.sizes().values()), tuple(missing), command)


def list_columns(data: Path | str) -> list[str]:
    """Names of the columns under a data set, finished or not, sorted; a column lies one or two folders
    deep.
    """
    root = open_files(data)
    if not isinstance(root, LocalFiles):
        found = [n.removesuffix(f"/{GROUP}") for n in root.sizes() if n.endswith(f"/{GROUP}")]
        return sorted(name for name in found if not any(name.startswith(f"{other}/") for other in found))
    names = []
    for name in _folders(root.folder):
        if (root.folder / name / GROUP).is_file():
            names.append(name)
        else:
            inner = _folders(root.folder / name)
            names += [f"{name}/{deep}" for deep in inner if (root.folder / name / deep / GROUP).is_file()]
    return sorted(names)


@dataclass(frozen=True)
class ColumnDiff:
    """In what two columns differ: fields by their path ("recipe.teacher.name"), and rows."""

    fields: tuple[tuple[str, Any, Any], ...]
    """(path, value in a, value in b); a field that one lacks is None there."""
    same_bytes: bool
    """Every chunk has the same digest."""
    rows: tuple[int, int]
    compared: int
    """Rows valid in both, compared one to one; 0 where table, index or width differ."""
    only_a: int
    """Rows valid in a alone."""
    only_b: int
    agreement: Agreement | None

    def lines(self) -> list[str]:
        """For a person."""
        lines = [f"{path}: {a!r} against {b!r}" for path, a, b in self.fields]
        if self.same_bytes:
            return [*lines, "the rows are the same, byte for byte"]
        if self.agreement is None:
            return [*lines, f"{self.rows[0]} against {self.rows[1]} rows, not comparable one to one"]
        lines.append(f"valid in the first alone {self.only_a}, in the second alone {self.only_b}")
        return [*lines, str(self.agreement)]


def diff_columns(
    a: tuple[Path | str, str], b: tuple[Path | str, str], *, progress: Progress | None = None
) -> ColumnDiff:
    """Compare two finished columns, each (data set, name): manifests field by field, then rows, in small
    memory.

    Rows are compared where table, index and width are the same.
    """
    progress = progress or Silent()
    first, second = open_column(*a), open_column(*b)
    fields = _differences(_told(first), _told(second))
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
    for lo in range(0, first.rows, 4096):
        hi = min(lo + 4096, first.rows)
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


def _told(column: Column) -> dict[str, Any]:
    """The fields worth comparing: not digests of digests, nor chunk lists."""
    fields = column.manifest.fields()
    for field in ("chunks", "documents", "reasons", "finished", "recipe_digest"):
        del fields[field]
    return fields


def _differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves that differ, depth first, keys sorted."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [
            found
            for key in sorted({*a, *b})
            for found in _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if a == b else [(path, a, b)]


def _leaves(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        full = f"{path}.{key}" if path else key
        leaves += _leaves(value, full) if isinstance(value, Mapping) else [(full, value)]
    return leaves


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
