"""Writing a column: chunks appear whole, are vouched for, and the manifest closes over them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.block import chunk_arrays
from cckt.cache_builder.store.command import mending_command
from cckt.cache_builder.store.layout import array_documents, library_versions
from cckt.cache_builder.store.ledger import FOLDER, Entry, LedgerWriter, Vouched, read_ledgers
from cckt.cache_builder.store.manifest import GROUP, Manifest, read_manifest
from cckt.cache_builder.store.places.files import TEMPORARY, ChunkFiles, LocalFiles, open_files
from cckt.cache_builder.store.spec import ColumnSpec, chunk_file, digest_of, some_runs, to_runs


def open_writer(data: Path | str, spec: ColumnSpec, *, overwrite: bool = False) -> ColumnWriter:
    """Begin the column `spec.name` of the data-set folder (or URL) `data`, or go on with the same one.

    Any number of processes may hold a writer of one column. A column of another index or recipe in that place
    is refused; `overwrite` replaces it: of several makers in a folder the first one does, the others join
    it. The same column, finished, is then made again; unfinished, it is the one that a killed overwrite
    began, and goes on.

    Raises UserError: another column is there; the folder is read-only, full or gone; several ranks would
    overwrite in an object store, which has no locks.
    """
    files = open_files(data, spec.name)
    if not overwrite:
        return _open(files, spec, str(data), overwrite=False)
    if not isinstance(files, LocalFiles):
        _require_one_rank(files.place)
    with files.alone():
        return _open(files, spec, str(data), overwrite=True)


def _open(files: ChunkFiles, spec: ColumnSpec, data: str, overwrite: bool) -> ColumnWriter:
    try:
        there = read_manifest(files)
    except UserError:  # edited, or of another schema
        if not overwrite:
            raise
        files.clear()
        there = None
    if there is not None and there.spec.identity != spec.identity:
        if not overwrite:
            raise UserError(_refusal(files.place, there.spec, spec, data))
        files.clear()
        there = None
    if there is not None and there.finished and overwrite:
        # No file is taken away: without the manifest's word every chunk is missing, and a second maker that
        # comes this way at the same instant writes the same bytes.
        files.put(f"{FOLDER}begin", b"", new=True)
        there = Manifest(spec, there.documents)
        files.put(GROUP, there.to_bytes())
    if there is None:
        documents = array_documents(spec)
        for name, document in documents.items():
            files.put(name, document, new=True)
        digests = {name: digest_of(document) for name, document in documents.items()}
        # The group comes last: where it stands, the arrays do too. And never over one that another maker
        # finished.
        files.put(f"{FOLDER}begin", b"", new=True)
        files.put(GROUP, Manifest(spec, digests).to_bytes(), new=True)
        there = read_manifest(files)
        assert there is not None
        if there.spec.identity != spec.identity:
            raise UserError(_refusal(files.place, there.spec, spec, data))
    return ColumnWriter(files, there, data)


def _require_one_rank(place: str) -> None:
    """UserError under torchrun with several ranks."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if ranks.isdigit() and int(ranks) > 1:
        raise UserError(
            f"--overwrite of {place}: found {ranks} ranks, expected one process, for an object store has no "
            "locks; begin it with one and --overwrite, stop that, then run all ranks without --overwrite."
        )


class ColumnWriter:
    """One process's hand on an unfinished column; call it from one thread at a time."""

    def __init__(self, files: ChunkFiles, manifest: Manifest, data: str) -> None:
        self.spec = manifest.spec
        self._files = files
        self._manifest = manifest
        self._data = data
        self._ledger = LedgerWriter(files, self.spec, library_versions())

    @property
    def n_chunks(self) -> int:
        """Chunks of the column."""
        return self.spec.n_chunks

    @property
    def finished(self) -> bool:
        """Whether the manifest is closed, by this process or any other; looks at the files."""
        if not self._manifest.finished:
            there = read_manifest(self._files)
            if there is None:
                raise UserError(
                    f"{self._files.place} vanished while it was written: expected the folder that the "
                    "command began with, bring it back or run the same command again to make it anew."
                )
            if there.spec.identity != self.spec.identity:
                raise UserError(_refusal(self._files.place, there.spec, self.spec, self._data))
            self._manifest = there
        return self._manifest.finished

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Rows [lo, hi) of a chunk."""
        return self.spec.bounds(chunk)

    def missing(self) -> list[int]:
        """Chunks that no ledger vouches for, or whose files are not there in full size; ascending. Looks
        at the files.
        """
        if self.finished:
            return []
        missing = self._look()[1]
        return (
            [] if missing and self.finished else missing
        )  # another maker may have finished and swept meanwhile

    def write(
        self,
        chunk: int,
        values: NDArray[Any],
        valid: NDArray[Any] | None = None,
        notes: Mapping[int, str] | None = None,
    ) -> int:
        """Store a chunk: files first, each whole by rename, then the ledger's word. Returns its invalid rows.

        values: (hi - lo, width), any float dtype, unit rows where the spec says so.
        valid: (hi - lo,) true for rows with a value, None for all; only where the spec has `has_valid`.
        Invalid rows are stored as zeros. A row that is not finite becomes invalid with a note (UserError
        where the column has no flags). notes: absolute row -> reason.
        A chunk that another maker vouched for meanwhile stays as it is.
        """
        told = dict(notes or {})
        blocks, invalid = chunk_arrays(self.spec, chunk, values, valid, told)
        if not self.finished and not self._made_already(chunk):
            digests = {array: digest_of(content.data) for array, content in blocks.items()}
            entry = Entry(chunk, digests, invalid, told)
            try:
                self._store(blocks, entry)
            except UserError as error:
                if not self.finished:  # else another maker finished the column and swept our temporary file
                    if not isinstance(error.__cause__, FileNotFoundError):
                        raise
                    self._store(blocks, entry)  # and a third one has begun it anew since
        return invalid

    def _store(self, blocks: Mapping[str, NDArray[Any]], entry: Entry) -> None:
        """A chunk's files, then the ledger's word on them."""
        for array, content in blocks.items():
            self._files.put(chunk_file(array, entry.chunk), content.data)
        self._ledger.append(entry)

    def finish(self) -> Manifest:
        """Close the manifest; safe to repeat and when two do it at once (both write the same bytes).

        Raises UserError where chunks are missing.
        """
        manifest = self.try_finish()
        if manifest is None:
            missing = self.missing()
            raise UserError(
                f"{self._files.place} lacks {len(missing)} of {self.n_chunks} chunks "
                f"({some_runs(missing)}): run "
                f"`{mending_command(self._data, self.spec.name, self.spec.recipe)}` to make them."
            )
        return manifest

    def try_finish(self) -> Manifest | None:
        """`finish` where nothing is missing, else None: what every maker calls when its own share is done."""
        with self._files.alone():  # else a sweep takes away what another maker, or an overwrite, just begins
            if not self.finished:
                vouched, missing, sizes = self._look()
                if missing:
                    # Without a lock another maker may have finished, and swept, between our two looks.
                    return self._manifest if self.finished else None
                self._manifest = self._closed(vouched)
                self._files.put(GROUP, self._manifest.to_bytes())
            else:
                there = read_manifest(self._files)
                if there is None or not there.finished:  # begun anew meanwhile: not ours to sweep
                    return self._manifest
                sizes = self._files.sizes()
            self._files.remove(n for n in sizes if n.startswith(FOLDER) or TEMPORARY in n)
        return self._manifest

    def _look(self) -> tuple[Vouched, list[int], dict[str, int]]:
        """Ledgers, missing chunks and file sizes as they are now."""
        sizes = self._files.sizes()
        vouched = read_ledgers(self._files, sizes, self.spec)
        expected = {array: self.spec.chunk_bytes(array) for array in self.spec.arrays}
        missing = []
        for chunk in range(self.n_chunks):
            words = vouched.entries.get(chunk, [])
            whole = all(sizes.get(chunk_file(array, chunk)) == size for array, size in expected.items())
            if len(words) > 1 and whole:  # makers disagree (floats differ between devices): the files decide
                words = [entry for entry in words if self._matches(entry)]
                vouched.entries[chunk] = words
            if not words or not whole:
                missing.append(chunk)
        return vouched, missing, sizes

    def _made_already(self, chunk: int) -> bool:
        """Whether another maker was faster: only where the file is there is it worth asking the ledgers."""
        if self._files.size(chunk_file("values", chunk)) != self.spec.chunk_bytes("values"):
            return False
        return chunk not in self._look()[1]

    def _matches(self, entry: Entry) -> bool:
        """Whether the chunk's files have the digests of an entry."""
        for array, expected in entry.digests.items():
            data = self._files.get(chunk_file(array, entry.chunk))
            if data is None or digest_of(data) != expected:
                return False
        return True

    def _closed(self, vouched: Vouched) -> Manifest:
        """The finished manifest; a function of the chunks alone, whoever made them in whatever order."""
        entries = [vouched.entries[chunk][0] for chunk in range(self.n_chunks)]
        rows: dict[str, list[int]] = {}
        for entry in entries:
            for row, reason in entry.notes.items():
                rows.setdefault(reason, []).append(row)
        versions: dict[str, set[str]] = {}
        for told in vouched.versions:
            for library, version in told.items():
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


def _refusal(place: str, there: ColumnSpec, wanted: ColumnSpec, data: str) -> str:
    """Why a place that holds another column is not written to: both digests, and what to do."""
    if there.index_digest != wanted.index_digest:
        what, found, expected = "index", there.index_digest, wanted.index_digest
    elif there.recipe_digest != wanted.recipe_digest:
        what, found, expected = "recipe", there.recipe_digest, wanted.recipe_digest
    else:
        what, found, expected = "shape", _shape(there), _shape(wanted)
    command = mending_command(data, wanted.name, wanted.recipe)
    return (
        f"{place} holds a column of another {what}: found {found}, expected {expected}; keep it and write "
        f"elsewhere, or replace it with `{command} --overwrite`."
    )


def _shape(spec: ColumnSpec) -> str:
    return f"{spec.rows} x {spec.width} {spec.dtype} in chunks of {spec.chunk_rows}"
