"""Begin a column, and if an older one of the same recipe is there, find which of its rows can be copied.

An older column stays in its place until the new one, which is made in `.grow/`, is finished; also one that
`--overwrite` replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.columns.growth.donor import Donor, same_photos
from cckt.cache_builder.columns.growth.tables import put_in_place, sweep_tables, table_of
from cckt.cache_builder.columns.views import BoxTable, index_of
from cckt.cache_builder.index import Index, photo_record
from cckt.cache_builder.runner import Item
from cckt.cache_builder.runner.engines.engine import begins_columns, makes_rows
from cckt.cache_builder.store import (
    Column,
    ColumnSpec,
    ColumnWriter,
    Manifest,
    open_column,
    open_writer,
    staged_manifest,
    staged_place,
)
from cckt.cache_builder.store.agreement import agreement
from cckt.cache_builder.store.begin import require_empty
from cckt.cache_builder.store.format.manifest import read_manifest
from cckt.cache_builder.store.places.files import LocalFiles, open_files
from cckt.cache_builder.store.staging import sweep_aside

REUSE = ("same", "any", "none")
"""Values of --reuse. "same": copy rows if rows that are made again here have the same bytes. "any": copy them
also if they differ, as after a change of hardware. "none": make every row."""

PROBES = 16
"""Rows that are made again before rows are copied."""


@dataclass
class Growth:
    """A column that was begun."""

    writer: ColumnWriter
    donor: Donor | None
    """The older column whose rows can be copied; None: there is none."""
    data: Path
    place: Path | str
    """Where the column will be."""
    staged: bool
    """Whether it is made in `.grow/` and replaces the column in its place."""
    held: bool = False
    """Whether it stays in `.grow/` when it is finished, until `finish_all`."""

    @property
    def readable(self) -> Path | str:
        """The folder or URL under which the finished column can be opened now."""
        name = self.writer.spec.name
        staged = self.staged and staged_manifest(self.place, name) is not None
        return staged_place(self.place) if staged else self.place

    def finish(self, manifest: Manifest | None) -> None:
        """Move the finished column to its place; None: other parts have chunks to make."""
        if self.staged and not self.held and manifest is not None:
            put_in_place(self.data, self.place, self.writer.spec.name)


def begin_column(
    data: Path,
    place: Path | str,
    spec: ColumnSpec,
    table: BoxTable,
    *,
    overwrite: bool = False,
    reuse: str = "same",
    source: Path | str | None = None,
    changing: tuple[str, ...] = (),
    copies: bool = True,
    held: bool = False,
) -> Growth:
    """Begin or resume the column `spec` of a data set in `place`, over its index or a proposals table.

    If the place holds the finished column of an earlier index (or proposals table) of this data set, by the
    same recipe, the new one is made next to it and rows may be copied. reuse: one of REUSE. source: data set
    (folder or URL) whose column rows are copied from instead; it must have been made by the same recipe.
    overwrite: replace what is there and copy nothing; a finished column in a folder stays valid until the new
    one is finished. changing: keys of the recipe that may differ without a change of the rows that are
    copied. held: see `Growth`. copies: False if rows of this kind are never copied.

    Raises UserError as `open_writer` does, and if `source` has no such column, or it is of another recipe, or
    there is no record of its photos.
    """
    if reuse not in REUSE:
        raise UserError(f"--reuse is {reuse!r}; choose one of {', '.join(REUSE)}.")
    if source is not None and (overwrite or reuse == "none"):
        other = "--overwrite" if overwrite else "--reuse none"
        raise UserError(
            f"--reuse-from {source} copies rows, but {other} makes every row; remove one of them."
        )
    overwrite = overwrite and begins_columns()  # a driver has begun it
    old = None if overwrite else _older_column(data, place, spec, changing)
    staged = old is not None or _is_staged(place, spec, overwrite)
    donor = None
    if source is not None:
        donor = _donor_from(source, data, spec, table, changing)
    elif old is not None and reuse != "none" and copies:
        donor = _donor(old, data, place, table)
    if isinstance(files := open_files(place, spec.name), LocalFiles):
        sweep_aside(files)
        if begins_columns():
            sweep_tables(data, place)  # of a run that was killed after it had put its column in place
        if staged:
            require_empty(files)
    writer = open_writer(place, spec, overwrite=overwrite, staged=staged, joins=not begins_columns())
    if donor is not None:
        writer.credit(donor.rows.column.manifest.versions)
    return Growth(writer, donor, data, place, staged, held)


def finish_all(data: Path, place: Path | str, index: Index, names: Iterable[str]) -> None:
    """Move the finished columns `names` of `index` in `.grow/` to their place, if they are there."""
    if not isinstance(open_files(place), LocalFiles):
        return
    for name in names:
        manifest = staged_manifest(place, name)
        if manifest is None or manifest.spec.index_digest == index.digest:
            put_in_place(data, place, name)
    sweep_tables(data, place)


def require_same_bytes(
    growth: Growth,
    read: Callable[[int, int], Iterable[Item]],
    encode: Callable[[list[Any]], Any],
    reuse: str,
    probes: int = PROBES,
) -> None:
    """Make some of the rows that would be copied again; raise UserError if their bytes differ.

    read, encode, reuse: see `compare_rows`.
    """
    spec = growth.writer.spec
    made, stored = compare_rows(growth, read, encode, reuse, probes)
    differ = int((made != stored).any(axis=1).sum())
    if differ:
        raise UserError(
            f"column {spec.name}: {differ} of {len(made)} stored rows differ from the same rows made here "
            f"(least cosine {agreement(stored, made).minimum:.6f}), expected the same bytes; other hardware "
            "or library versions made them, so add --reuse any to copy rows all the same, or --reuse none to "
            "make every row."
        )


def compare_rows(
    growth: Growth,
    read: Callable[[int, int], Iterable[Item]],
    encode: Callable[[list[Any]], Any],
    reuse: str,
    probes: int = PROBES,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return some rows (n, width) that would be copied, made again here, and as they are stored.

    read, encode: as for `run_chunks`, without copying. There are none if there is nothing to copy or to make,
    for `reuse` "any", and in a driver whose workers check this on their devices.
    """
    donor, spec = growth.donor, growth.writer.spec
    none = np.zeros((0, spec.width), spec.dtype)
    if donor is None or reuse == "any" or not makes_rows() or not growth.writer.missing():
        return none, none
    pairs: list[tuple[int, Any]] = []
    candidates = np.unique(np.linspace(0, spec.rows - 1, min(16 * probes, spec.rows)).astype(np.int64))
    for row in np.random.default_rng(0).permutation(candidates).tolist():  # not the first part alone
        old = int(donor.old_rows(row, row + 1)[0])
        item = next(iter(read(row, row + 1)), None) if old >= 0 else None
        if item is not None and item.data is not None:
            pairs.append((old, item.data))
        if len(pairs) == probes:
            break
    if not pairs:
        return none, none
    made, size = [], int(spec.recipe.get("batch", probes))
    for lo in range(0, len(pairs), size):
        part = encode([pixels for _, pixels in pairs[lo : lo + size]])
        made.append(np.asarray(part() if callable(part) else part).astype(spec.dtype))
    return np.concatenate(made), donor.rows.take(np.array([old for old, _ in pairs]))


def _older_column(
    data: Path, place: Path | str, spec: ColumnSpec, changing: tuple[str, ...]
) -> Column | None:
    """The finished column in the place that belongs to an earlier index of the data set; None for another."""
    files = open_files(place, spec.name)
    if not isinstance(files, LocalFiles):
        return None
    try:
        manifest = read_manifest(files)
    except UserError:  # `open_writer` reports it
        return None
    if manifest is None or not manifest.finished or manifest.spec.index_digest == spec.index_digest:
        return None
    if not _same_recipe(manifest.spec, spec, changing):
        return None
    try:
        table_of(data, place, manifest.spec)
    except UserError:  # not of this data set, or not kept
        return None
    return open_column(place, spec.name)


def _is_staged(place: Path | str, spec: ColumnSpec, overwrite: bool) -> bool:
    """Whether the column is made in `.grow/` although no row of an older one is copied.

    So it is if it replaces a finished column, if a kill left it there when the old one was already moved
    away, and if the driver of this worker has begun it there.
    """
    if not isinstance(files := open_files(place, spec.name), LocalFiles):
        return False
    left = staged_manifest(place, spec.name)
    begun = left is not None and left.spec.identity == spec.identity
    if begun and (overwrite or not begins_columns()):
        return True
    try:
        found = read_manifest(files)
    except UserError:  # `open_writer` reports it, or replaces it
        return False
    if overwrite:
        return found is not None and found.finished
    return begun and left is not None and left.finished and found is None


def _same_recipe(one: ColumnSpec, other: ColumnSpec, changing: tuple[str, ...]) -> bool:
    """Whether rows of two columns are made in the same way."""

    def kept(recipe: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in recipe.items() if key not in changing}

    return kept(one.recipe) == kept(other.recipe) and (one.dtype, one.table) == (other.dtype, other.table)


def _donor_from(
    source: Path | str, data: Path, spec: ColumnSpec, table: BoxTable, changing: tuple[str, ...]
) -> Donor:
    """The donor that --reuse-from names; UserError if it cannot be one."""
    column = open_column(source, spec.name)
    found = column.manifest.spec
    if not _same_recipe(found, spec, changing) or found.width != spec.width:
        raise UserError(
            f"--reuse-from {source}: its column {spec.name} has recipe {found.recipe_digest}, expected "
            f"{spec.recipe_digest}; give the options that made it (cckt cache info {quoted(source)} shows "
            "them), or "
            "remove --reuse-from."
        )
    local = isinstance(open_files(source), LocalFiles) and (Path(source) / "index").is_dir()
    donor = _donor(column, Path(source) if local else data, source, table)
    if donor is None:
        raise UserError(
            f"--reuse-from {source}: its photos have no recorded digests, expected those of index "
            f"{found.index_digest}; run cckt data index again on both data sets without --no-digests."
        )
    return donor


def _donor(column: Column, data: Path, place: Path | str, table: BoxTable) -> Donor | None:
    """The donor; None if the photos of one of the two indexes have no record."""
    old = table_of(data, place, column.manifest.spec)
    index, old_index = index_of(table), index_of(old)
    record, old_record = photo_record(index), photo_record(old_index)
    if record is None or old_record is None:
        return None
    return Donor(table, old, column, same_photos(index, record, old_index, old_record))
