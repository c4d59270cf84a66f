"""Read a finished column at the speed of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.format.file_names import GROUP, chunk_file
from cckt.cache_builder.store.format.manifest import Manifest, read_manifest
from cckt.cache_builder.store.kinds import repair_command
from cckt.cache_builder.store.missing import command_for_missing
from cckt.cache_builder.store.places.contract import Bytes, ChunkFiles
from cckt.cache_builder.store.places.fetched import FetchedRows
from cckt.cache_builder.store.places.files import open_files
from cckt.cache_builder.store.places.mapped import MappedRows, can_map

Stamp = tuple[int, int]


def open_column(
    data: Path | str,
    name: str,
    *,
    index_digest: str | None = None,
    recipe_digest: str | None = None,
    resident: int | None = None,
    teacher: str = "",
    prove: bool = False,
) -> Column:
    """Open a finished column of the data-set folder (or URL) `data`; reads one small file, no rows.

    resident: about how many bytes reading a mapped column may add to this process; None: an eighth of the
    machine's memory, at least 512 MB. They are the kernel's cached pages, shared with every other reader.

    index_digest: of a column over proposals this is the digest of the proposals table. teacher: the one that
    the message for a missing column names, if no other column names one. prove: compare each chunk
    with its digest when it is first read, as every stage does that makes something from the column; training
    leaves the embeddings of crops, photos and proposals to `cckt cache verify`.

    Raises UserError if the column is missing, is unfinished (zarr would read its missing chunks as zeros),
    has an edited manifest, or was made for another index, or by another recipe, than the given digests.
    """
    files = open_files(data, name)
    stamp = _stamp(files)
    manifest = read_manifest(files)
    if manifest is None:
        raise UserError(
            f"There is no column {name} under {data}: expected {files.place}/{GROUP}, make it with "
            f"`{command_for_missing(data, name, teacher)}`."
        )
    command = repair_command(str(data), name, manifest.spec.recipe)
    if not manifest.finished:
        raise UserError(
            f"Column {files.place} is not finished: expected every chunk to be made before it is read, run "
            f"`{command}`."
        )
    spec = manifest.spec
    for what, found, expected in (
        (spec.owner, spec.index_digest, index_digest),
        ("recipe", spec.recipe_digest, recipe_digest),
    ):
        if expected is not None and found != expected:
            raise UserError(
                f"Column {files.place} was made for another {what}: found {found}, expected {expected}; "
                f"make it again with `{command} --overwrite`."
            )
    return Column(files, manifest, resident, stamp, prove)


class Column:
    """A finished column. Picklable and cheap to send: a worker maps the same files at its first read.

    Files are mapped at their first use. If another column has taken the place of this one by then, reading
    raises UserError.
    """

    def __init__(
        self,
        files: ChunkFiles,
        manifest: Manifest,
        resident: int | None = None,
        stamp: Stamp | None = None,
        prove: bool = False,
    ) -> None:
        """stamp: of the group document, from before it was read. prove: see `open_column`."""
        self.manifest = manifest
        self._resident, self._stamp, self._prove = resident, stamp, prove
        self._files = files
        self._arrays: dict[str, MappedRows | FetchedRows] = {}
        self._limit = np.uintp(manifest.spec.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "manifest": self.manifest,
            "files": self._files,
            "resident": self._resident,
            "stamp": self._stamp,
            "prove": self._prove,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return self.rows

    @property
    def files(self) -> ChunkFiles:
        """The files of the column."""
        return self._files

    @property
    def rows(self) -> int:
        """Number of rows, that of its table."""
        return self.manifest.spec.rows

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.manifest.spec.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32, little-endian."""
        return self.manifest.spec.arrays["values"][1]

    def take(self, rows: ArrayLike) -> NDArray[Any]:
        """Return a copy, (n, width) of `dtype`, of rows (n,), in any order, with repeats.

        IndexError outside 0..rows-1.
        """
        return self._array("values").take(self._checked(rows))

    def slice(self, lo: int, hi: int) -> NDArray[Any]:
        """Return a copy, (hi - lo, width) of `dtype`, of rows [lo, hi), 0 <= lo <= hi <= rows."""
        if not 0 <= lo <= hi <= self.rows:
            raise IndexError(f"rows {lo}:{hi} of column {self.manifest.spec.name} with {self.rows} rows")
        return self._array("values").slice(lo, hi)

    def all(self) -> NDArray[Any]:
        """Return a copy of the whole column, (rows, width) of `dtype`: for small columns."""
        return self.slice(0, self.rows)

    def valid(self, rows: ArrayLike) -> NDArray[np.bool_]:
        """Return (n,) bool for rows (n,): whether a row has a value; all true in a column without flags."""
        checked = self._checked(rows)
        if not self.manifest.spec.has_valid:
            return np.ones(len(checked), bool)
        return self._array("valid").take(checked)[:, 0].astype(bool)

    def valid_all(self) -> NDArray[np.bool_]:
        """Return `valid` of all rows, (rows,) bool."""
        if not self.manifest.spec.has_valid:
            return np.ones(self.rows, bool)
        return self._array("valid").slice(0, self.rows)[:, 0].astype(bool)

    def _checked(self, rows: ArrayLike) -> NDArray[np.intp]:
        checked: NDArray[np.intp] = np.ascontiguousarray(rows, dtype=np.intp)
        if checked.ndim != 1:
            raise IndexError(f"rows of shape {checked.shape}, expected (n,)")
        # As unsigned numbers negative rows are huge, so one comparison checks both ends.
        if checked.size and checked.view(np.uintp).max() >= self._limit:
            raise IndexError(
                f"rows {checked.min()}..{checked.max()} of column {self.manifest.spec.name} with "
                f"{self.rows} rows"
            )
        return checked

    def _array(self, array: str) -> MappedRows | FetchedRows:
        rows = self._arrays.get(array)
        if rows is None:
            rows = self._arrays[array] = self._open(array)
        return rows

    def _open(self, array: str) -> MappedRows | FetchedRows:
        spec = self.manifest.spec
        paths = [self._files.path(chunk_file(array, chunk)) for chunk in range(spec.n_chunks)]
        local = [path for path in paths if path is not None]
        if not can_map() or len(local) < len(paths):  # what is fetched as a whole is proven at little cost
            guard = _Guard(array, self._files, self.manifest, self._stamp, prove=True)
            return FetchedRows(self._files, spec, array, guard)
        width, dtype = spec.arrays[array]
        guard = _Guard(array, self._files, self.manifest, self._stamp, self._prove)
        return MappedRows(local, spec.rows, spec.chunk_rows, width, dtype, self._resident, guard)


class _Guard:
    """Whether chunk files are those of a column: the `RowsGuard` of one of its arrays.

    With `prove` the digest of a chunk tells. Without, the group document does: `--overwrite` exchanges whole
    folders, so a file was the column's own if the document is still in its place afterwards. The document is
    read again only if its time or size has changed.
    """

    def __init__(
        self, array: str, files: ChunkFiles, manifest: Manifest, stamp: Stamp | None, prove: bool
    ) -> None:
        self._array, self._files, self._manifest = array, files, manifest
        self._stamp, self.reads_content = stamp, prove

    def require_current(self) -> None:
        """See `RowsGuard.require_current`."""
        stamp = _stamp(self._files)
        if stamp is not None and stamp == self._stamp:
            return
        found = read_manifest(self._files)
        if found is None or found.digest != self._manifest.digest:
            raise UserError(
                f"Column {self._files.place} was replaced while it was read: expected the column that the "
                "command began with, run the same command again."
            )
        self._stamp = stamp

    def require_sound(self, chunk: int, content: Bytes) -> None:
        """See `RowsGuard.require_sound`."""
        if self.reads_content and digest_of(content) == self._manifest.chunks[self._array][chunk]:
            return
        self.require_current()
        if self.reads_content:
            raise UserError(
                f"Chunk file {self._files.place}/{chunk_file(self._array, chunk)} is damaged: expected the "
                "content that its column states, run `cckt cache verify DATA --repair`, with DATA its data "
                "set."
            )


def _stamp(files: ChunkFiles) -> Stamp | None:
    """Return time (ns) and size of the group document; None if it is not a file here."""
    path = files.path(GROUP)
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size)
