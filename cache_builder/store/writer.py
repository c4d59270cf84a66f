"""Write a column: chunk files first, then a ledger entry for each, then the manifest over all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.text import natural
from cckt.cache_builder.store.begin import OtherColumn, begin
from cckt.cache_builder.store.claims import Claims
from cckt.cache_builder.store.format.block import chunk_arrays
from cckt.cache_builder.store.format.file_names import (
    GROUP,
    chunk_file,
    is_claim,
    is_ledger,
    is_temporary,
)
from cckt.cache_builder.store.format.layout import library_versions
from cckt.cache_builder.store.format.ledger import LedgerEntry, Ledgers, LedgerWriter, read_ledgers
from cckt.cache_builder.store.format.manifest import Manifest, read_manifest
from cckt.cache_builder.store.format.spec import ColumnSpec, some_runs, to_runs
from cckt.cache_builder.store.kinds import repair_command
from cckt.cache_builder.store.places.contract import ChunkFiles
from cckt.cache_builder.store.places.files import LocalFiles, open_files
from cckt.cache_builder.store.staging import staged_place


def open_writer(
    data: Path | str,
    spec: ColumnSpec,
    *,
    overwrite: bool = False,
    staged: bool = False,
    joins: bool = False,
) -> ColumnWriter:
    """Begin the column `spec.name` of the data-set folder (or URL) `data`, or resume the same column.

    Any number of processes may write one column. A column of another index or recipe in that place is
    refused; `overwrite` replaces it: of several makers the first one replaces it, the others join. The same
    column is made again if it is finished, and resumed if it is not: a killed overwrite began it.

    staged: make it in `.grow/` of a folder `data`; `staging.promote` exchanges it for the one in the place
    when it is finished; other makers may do that while this writer is in use. With `overwrite`, also if the
    place holds the same column. A column of another index or
    recipe in `.grow/` is removed, or with `joins` refused: another process has begun the column.

    Raises UserError: another column is in the place; the folder holds files that do not belong to a column
    (they are never deleted); it is read-only, gone, or has no room for the whole column; several ranks
    overwrite in an object store, which has no locks.
    """
    files = open_files(staged_place(data) if staged else data, spec.name)
    if isinstance(files, LocalFiles):
        needed = spec.n_chunks * sum(map(spec.chunk_bytes, spec.arrays))
        present = sum(size for name, size in files.sizes().items() if not is_temporary(name))
        require_room(files.folder, max(needed - present, 0))
    if staged:
        with files.locked():
            found, later = read_manifest(files), open_files(data, spec.name)
            done = read_manifest(later) if found is None and not overwrite else None
            if done is not None and done.finished and done.spec.identity == spec.identity:
                return ColumnWriter(later, done, str(data))  # promoted a moment ago
            other = found is not None and found.spec.identity != spec.identity and not joins
            manifest = begin(files, spec, str(data), overwrite=other)
            return ColumnWriter(files, manifest, str(data), later)
    if not overwrite:
        return ColumnWriter(files, begin(files, spec, str(data), overwrite=False), str(data))
    if not isinstance(files, LocalFiles):
        _require_one_rank(files.place)
    with files.locked():
        return ColumnWriter(files, begin(files, spec, str(data), overwrite=True), str(data))


def _require_one_rank(place: str) -> None:
    """UserError under torchrun with several ranks."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if (natural(ranks) or 0) > 1:
        raise UserError(
            f"--overwrite of {place}: found {ranks} ranks, expected one process, for an object store has no "
            "locks; begin it with one and --overwrite, stop that, then run all ranks without --overwrite."
        )


class ColumnWriter:
    """The access of one process to an unfinished column; call it from one thread at a time."""

    def __init__(
        self, files: ChunkFiles, manifest: Manifest, data: str, later: ChunkFiles | None = None
    ) -> None:
        """later: where a staged column is when it has been promoted."""
        self.spec = manifest.spec
        self._files, self._later = files, later
        self._manifest = manifest
        self.data = data
        self._ledger = LedgerWriter(files, self.spec, library_versions())

    def credit(self, versions: Mapping[str, str]) -> None:
        """Add versions of libraries that made rows which the next chunks contain as copies."""
        joined: dict[str, str] = dict(library_versions())
        for library, version in versions.items():
            known = {*joined.get(library, version).split(", "), *version.split(", ")}
            joined[library] = ", ".join(sorted(known))
        self._ledger = LedgerWriter(self._files, self.spec, joined)

    @property
    def n_chunks(self) -> int:
        """Number of chunks of the column."""
        return self.spec.n_chunks

    @property
    def finished(self) -> bool:
        """Whether this process or another one has finished the column; reads the manifest."""
        if not self._manifest.finished:
            found = read_manifest(self._files) or self._promoted()
            if found is None:
                raise UserError(
                    f"{self._files.place} vanished while it was written: expected the folder that the "
                    "command began with, restore it or run the same command again to make it again."
                )
            if found.spec.identity != self.spec.identity:
                raise OtherColumn(self._files.place, found.spec, self.spec, self.data)
            self._manifest = found
        return self._manifest.finished

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Return rows [lo, hi) of a chunk."""
        return self.spec.bounds(chunk)

    def missing(self) -> list[int]:
        """Return the chunks without a ledger entry or with incomplete files, ascending; reads the files."""
        if self.finished:
            return []
        missing = self._state()[1]
        # Another maker may have finished the column and removed its ledgers meanwhile.
        return [] if missing and self.finished else missing

    def claims(self, units: int) -> Claims:
        """Return the claims of this process on `units` units of work of the column."""
        return Claims(self._files, units)

    def stands(self, chunk: int) -> bool:
        """Return whether the file of a chunk is whole: another maker may have made it just now."""
        size = self._files.size(chunk_file("values", chunk))
        if size is None and self._later is not None:
            return self.finished
        return size == self.spec.chunk_bytes("values")

    def write(
        self,
        chunk: int,
        values: NDArray[Any],
        valid: NDArray[Any] | None = None,
        notes: Mapping[int, str] | None = None,
    ) -> int:
        """Store a chunk and record it in the ledger; return its number of invalid rows.

        values: (hi - lo, width), any float dtype, unit rows if the spec has `unit`.
        valid: (hi - lo,) true for rows with a value, None for all; only if the spec has `has_valid`.
        Invalid rows are stored as zeros. A non-finite row becomes invalid with a note (UserError without
        flags). notes: row of the column -> reason.
        A chunk that another maker has recorded meanwhile stays as it is.
        """
        reasons = dict(notes or {})
        blocks, invalid = chunk_arrays(self.spec, chunk, values, valid, reasons)
        if not self.finished and not self._made_already(chunk):
            digests = {array: digest_of(content.data) for array, content in blocks.items()}
            entry = LedgerEntry(chunk, digests, invalid, reasons)
            try:
                self._store(blocks, entry)
            except UserError as error:
                if not self.finished:  # else another maker finished the column and removed our temporary file
                    if not isinstance(error.__cause__, FileNotFoundError):
                        raise
                    self._store(blocks, entry)  # and a third one has begun it again since
        return invalid

    def _promoted(self) -> Manifest | None:
        """The manifest of a staged column that another maker has finished and promoted."""
        found = None if self._later is None else read_manifest(self._later)
        return found if found and found.finished and found.spec.identity == self.spec.identity else None

    def _store(self, blocks: Mapping[str, NDArray[Any]], entry: LedgerEntry) -> None:
        """Write a chunk's files, then its ledger entry."""
        for array, content in blocks.items():
            self._files.put(chunk_file(array, entry.chunk), content.data)
        self._ledger.append(entry)

    def finish(self) -> Manifest:
        """Write the finished manifest; may be repeated, and two processes write the same bytes.

        Raises UserError if chunks are missing.
        """
        manifest = self.try_finish()
        if manifest is None:
            missing = self.missing()
            raise UserError(
                f"{self._files.place} lacks {len(missing)} of {self.n_chunks} chunks "
                f"({some_runs(missing)}): run "
                f"`{repair_command(self.data, self.spec.name, self.spec.recipe)}` to make them."
            )
        return manifest

    def try_finish(self) -> Manifest | None:
        """Do `finish` if no chunk is missing, else return None: for makers that have made their own share."""
        with self._files.locked():  # else a sweep removes what another maker, or an overwrite, just begins
            if not self.finished:
                ledgers, missing, sizes = self._state()
                if missing:
                    # Without a lock another maker may have finished, and swept, between our two reads.
                    return self._manifest if self.finished else None
                self._manifest = self._closed(ledgers)
                self._files.put(GROUP, self._manifest.to_bytes())
            else:
                found = read_manifest(self._files)
                if found is None or not found.finished:  # begun again meanwhile: not ours to sweep
                    return self._manifest
                sizes = self._files.sizes()
            left = (is_ledger, is_claim, is_temporary)
            self._files.remove(name for name in sizes if any(one(name) for one in left))
        return self._manifest

    def _state(self) -> tuple[Ledgers, list[int], dict[str, int]]:
        """Ledgers, missing chunks and file sizes as they are now."""
        sizes = self._files.sizes()
        ledgers = read_ledgers(self._files, sizes, self.spec)
        expected = {array: self.spec.chunk_bytes(array) for array in self.spec.arrays}
        missing = []
        for chunk in range(self.n_chunks):
            entries = ledgers.entries.get(chunk, [])
            whole = all(sizes.get(chunk_file(array, chunk)) == size for array, size in expected.items())
            if len(entries) > 1 and whole:  # floats differ between devices: the entry of the files counts
                entries = [entry for entry in entries if self._matches(entry)]
                ledgers.entries[chunk] = entries
            if not entries or not whole:
                missing.append(chunk)
        return ledgers, missing, sizes

    def _made_already(self, chunk: int) -> bool:
        """Whether another maker was faster; the ledgers are read only if the chunk's file exists."""
        return self.stands(chunk) and chunk not in self._state()[1]

    def _matches(self, entry: LedgerEntry) -> bool:
        """Whether the chunk's files have the digests of an entry."""
        for array, expected in entry.digests.items():
            data = self._files.get(chunk_file(array, entry.chunk))
            if data is None or digest_of(data) != expected:
                return False
        return True

    def _closed(self, ledgers: Ledgers) -> Manifest:
        """The finished manifest; it depends on the chunks only, not on who made them in which order."""
        entries = [ledgers.entries[chunk][0] for chunk in range(self.n_chunks)]
        rows: dict[str, list[int]] = {}
        for entry in entries:
            for row, reason in entry.notes.items():
                rows.setdefault(reason, []).append(row)
        versions: dict[str, set[str]] = {}
        for used in ledgers.versions:
            for library, version in used.items():
                versions.setdefault(library, set()).update(version.split(", "))
        return Manifest(
            spec=self.spec,
            documents=self._manifest.documents,
            versions={library: ", ".join(sorted(versions[library])) for library in sorted(versions)},
            invalid=sum(entry.invalid for entry in entries),
            reasons={reason: to_runs(rows[reason]) for reason in sorted(rows)},
            chunks={array: tuple(entry.digests[array] for entry in entries) for array in self.spec.arrays},
            finished=True,
        )
