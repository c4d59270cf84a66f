"""List the columns of a data set and describe each of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.store.format.file_names import GROUP
from cckt.cache_builder.store.format.manifest import Manifest, read_manifest
from cckt.cache_builder.store.format.spec import run_bounds, shortened, some_runs
from cckt.cache_builder.store.kinds import KINDS, parse_name, repair_command
from cckt.cache_builder.store.missing import command_for_missing
from cckt.cache_builder.store.places.files import LocalFiles, open_files
from cckt.cache_builder.store.writer import ColumnWriter

MOST_REASONS = 20
"""Reasons of invalid rows that are shown."""


@dataclass(frozen=True)
class ColumnInfo:
    """A column as `cckt cache info` shows it."""

    name: str
    place: str
    manifest: Manifest
    bytes: int
    """Bytes of all its files."""
    missing: tuple[int, ...]
    """Chunks that are not made yet; empty for a finished column."""
    command: str
    """The command that makes or completes it."""

    def lines(self) -> list[str]:
        """Return the description as lines of text."""
        spec = self.manifest.spec
        state = (
            "finished" if self.manifest.finished else f"not finished, lacks chunks {some_runs(self.missing)}"
        )
        if not self.manifest.finished and not self.missing:
            state = "not closed"
        lines = [f"{self.place}: {state}"]
        named = parse_name(self.name)
        if named is not None:
            lines.append(f"  {KINDS[named.kind].help}")
        lines += [
            f"  {spec.rows} x {spec.width} {spec.dtype} over {spec.table}, "
            f"{counted(spec.n_chunks, 'chunk')} of "
            f"{spec.chunk_rows}, {self.bytes / 1e6:.1f} MB, {counted(self.manifest.invalid, 'row')} invalid",
            f"  {spec.owner} {spec.index_digest}",
            f"  recipe {spec.recipe_digest}",
        ]
        lines += [f"    {key}: {value}" for key, value in _leaves(spec.recipe)]
        if self.manifest.versions:
            lines.append("  made with " + ", ".join(f"{k} {v}" for k, v in self.manifest.versions.items()))
        for reason, runs in list(self.manifest.reasons.items())[:MOST_REASONS]:
            rows = sum(last - first + 1 for first, last in run_bounds(runs))
            lines.append(f"  {counted(rows, 'row')} ({shortened(runs)}): {reason}")
        if len(self.manifest.reasons) > MOST_REASONS:
            lines.append(f"  {MOST_REASONS} reasons listed, {len(self.manifest.reasons) - MOST_REASONS} more")
        if not self.manifest.finished:
            lines.append(f"  run `{self.command}` to finish it")
        return lines


def column_info(data: Path | str, name: str) -> ColumnInfo:
    """Describe a column, finished or not. UserError if it is missing."""
    files = open_files(data, name)
    manifest = read_manifest(files)
    if manifest is None:
        known = ", ".join(list_columns(data)) or "none"
        raise UserError(
            f"There is no column {name} under {data}: found {known}; make it with "
            f"`{command_for_missing(data, name)}`."
        )
    missing = [] if manifest.finished else ColumnWriter(files, manifest, str(data)).missing()
    command = repair_command(str(data), name, manifest.spec.recipe)
    return ColumnInfo(name, files.place, manifest, sum(files.sizes().values()), tuple(missing), command)


def list_columns(data: Path | str) -> list[str]:
    """Return the sorted names of the columns under a data set, finished or not.

    A folder whose name is of no kind of column is not one, whatever it holds.
    """
    root = open_files(data)
    if not isinstance(root, LocalFiles):
        found = [name.removesuffix(f"/{GROUP}") for name in root.sizes() if name.endswith(f"/{GROUP}")]
    else:
        parents = {kind.rpartition("/")[0] for kind in KINDS}
        parents |= {one for one in _names(root.folder) if one.partition("-")[0] in parents}
        names = [f"{parent}/{one}".lstrip("/") for parent in parents for one in _names(root.folder / parent)]
        found = [name for name in names if (root.folder / name / GROUP).is_file()]
    return sorted(name for name in found if parse_name(name) is not None)


def _leaves(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        full = f"{path}.{key}" if path else key
        leaves += _leaves(value, full) if isinstance(value, Mapping) else [(full, value)]
    return leaves


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
