"""Looking at every file of a column, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.store.agreement import Agreement, agreement
from cckt.cache_builder.store.block import UNIT_TOLERANCE
from cckt.cache_builder.store.layout import array_documents
from cckt.cache_builder.store.ledger import FOLDER, Entry, LedgerWriter, read_ledgers
from cckt.cache_builder.store.manifest import GROUP, Manifest
from cckt.cache_builder.store.places.files import TEMPORARY, ChunkFiles
from cckt.cache_builder.store.reader import Column
from cckt.cache_builder.store.spec import ColumnSpec, chunk_file, digest_of, some_runs


@dataclass(frozen=True)
class Problem:
    """One thing wrong."""

    kind: str
    """A word for programs: manifest, unfinished, index, rows, document, missing, size, digest, swapped,
    not_finite, not_unit, not_zero, invalid_count, foreign, recompute or mended."""
    message: str
    chunk: int | None = None
    """The chunk to make again, where that mends it."""


class Check:
    """The state of one verification."""

    def __init__(self, files: ChunkFiles, manifest: Manifest) -> None:
        self.files, self.manifest, self.spec = files, manifest, manifest.spec
        self.problems: list[Problem] = []
        self.bad: set[int] = set()
        self.bad_documents = False
        self.invalid = 0
        self._good: list[Entry] = []
        self._sizes = files.sizes()
        self._words = self._vouched(self.spec)
        self._homes = {word: chunk for chunk, words in self._words.items() for word in words["values"]}

    def say(self, kind: str, message: str, chunk: int | None = None) -> None:
        """Note a problem; with a chunk, that chunk is to be made again."""
        self.problems.append(Problem(kind, message, chunk))
        if chunk is not None:
            self.bad.add(chunk)

    def alignment(self, index_digest: str | None, table_rows: int | None) -> None:
        """Does the column belong to the index at hand?"""
        spec = self.spec
        if index_digest is not None and spec.index_digest != index_digest:
            self.say("index", f"made for index {spec.index_digest}, this data set's is {index_digest}")
        if table_rows is not None and spec.rows != table_rows:
            self.say("rows", f"{spec.rows} rows, the table of {spec.table} has {table_rows}")

    def names(self) -> None:
        """Are the files of the column there, with no others among them?"""
        documents = {f"{array}/zarr.json" for array in self.spec.arrays}
        for name in sorted(documents):
            data = self.files.get(name)
            if data is None or digest_of(data) != self.manifest.documents[name]:
                self.say("document", f"{name} is {'gone' if data is None else 'not as it was written'}")
                self.bad_documents = True
        chunks = {
            chunk_file(array, chunk) for array in self.spec.arrays for chunk in range(self.spec.n_chunks)
        }
        for name in sorted(set(self._sizes) - documents - chunks - {GROUP}):
            ours = name.startswith(FOLDER) or TEMPORARY in name
            if self.manifest.finished or not ours:
                self.say("foreign", f"{name} does not belong to the column")
        if not self.manifest.finished:
            missing = [chunk for chunk in range(self.spec.n_chunks) if chunk not in self._words]
            told = f", chunks {some_runs(missing)} are missing" if missing else ""
            self.say("unfinished", f"the column is not finished{told}")

    def chunk(self, chunk: int) -> None:
        """Check one chunk that is vouched for; its word stays good where nothing is wrong."""
        if chunk not in self._words:
            return
        before = len(self.problems)
        blocks: dict[str, NDArray[Any]] = {}
        digests = {}
        for array, (width, dtype) in self.spec.arrays.items():
            name = chunk_file(array, chunk)
            data, size = self.files.get(name), self.spec.chunk_bytes(array)
            if data is None:
                self.say("missing", f"{name} is gone", chunk)
            elif len(data) != size:
                self.say("size", f"{name} has {len(data)} bytes, expected {size}", chunk)
            else:
                digests[array] = digest_of(data)
                blocks[array] = np.frombuffer(data, dtype).reshape(-1, width)
                if digests[array] not in self._words[chunk][array]:
                    home = self._homes.get(digests[array]) if array == "values" else None
                    if home is not None:
                        self.say("swapped", f"{name} holds the rows of chunk {home}", chunk)
                    else:
                        expected = " or ".join(self._words[chunk][array])
                        self.say("digest", f"{name} has digest {digests[array]}, expected {expected}", chunk)
        if "values" in blocks and ("valid" in blocks or not self.spec.has_valid):
            invalid = self._rows(chunk, blocks)
            if len(self.problems) == before:
                self._good.append(Entry(chunk, digests, invalid, self._notes_of(chunk)))

    def _rows(self, chunk: int, blocks: dict[str, NDArray[Any]]) -> int:
        """Finite, unit and zero rows where they must be; counts the invalid ones."""
        lo, hi = self.spec.bounds(chunk)
        values = blocks["values"][: hi - lo]
        flags = blocks["valid"][: hi - lo, 0].astype(bool) if self.spec.has_valid else np.ones(hi - lo, bool)
        invalid = int((~flags).sum())
        self.invalid += invalid
        where = f"in chunk {chunk} (rows {lo}-{hi - 1})"
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            self.say("not_finite", f"{int((~finite).sum())} rows are not finite {where}", chunk)
        if self.spec.unit:
            lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
            wrong = flags & finite & (np.abs(lengths - 1) > UNIT_TOLERANCE[self.spec.dtype])
            if wrong.any():
                self.say("not_unit", f"{int(wrong.sum())} rows are not of length 1 {where}", chunk)
        if values[~flags].any() or blocks["values"][hi - lo :].any():
            self.say("not_zero", f"invalid or padding rows are not zero {where}", chunk)
        return invalid

    def recompute(
        self, again: Callable[[NDArray[np.int64]], NDArray[Any]], sample: int, seed: int, minimum: float
    ) -> Agreement | None:
        """Stored rows against the teacher's word of today."""
        column = Column(self.files, self.manifest)
        valid = np.flatnonzero(column.valid_all())
        rows = np.sort(np.random.default_rng(seed).permutation(valid)[:sample])
        if not len(rows):
            return None
        agreed = agreement(column.take(rows), np.asarray(again(rows)))
        if not agreed.minimum >= minimum:
            worst = int(rows[agreed.worst])
            self.say(
                "recompute", f"row {worst} has cosine {agreed.minimum:.6f} to the teacher's, under {minimum}"
            )
        return agreed

    def mark_missing(self) -> None:
        """Take the finished flag and the word on bad chunks away, in an order that a kill cannot spoil."""
        documents = array_documents(self.spec)
        if self.bad_documents:
            for name, document in documents.items():
                self.files.put(name, document, new=True) or self.files.put(name, document)
            digests = {name: digest_of(document) for name, document in documents.items()}
        else:
            digests = dict(self.manifest.documents)
        old = [name for name in self._sizes if name.startswith(FOLDER)]
        self.files.put(f"{FOLDER}begin", b"", new=True)
        versions = self._versions
        good = [entry for entry in self._good if entry.chunk not in self.bad]
        LedgerWriter(self.files, self.spec, versions).append_all(good)
        self.files.put(GROUP, Manifest(self.spec, digests).to_bytes())
        self.files.remove(name for name in old if name != f"{FOLDER}begin")

    def _vouched(self, spec: ColumnSpec) -> dict[int, dict[str, list[str]]]:
        """Chunk -> array -> digests it may have: one by the manifest, or those of the ledgers."""
        self._versions: dict[str, str] = dict(self.manifest.versions)
        self._notes: dict[int, dict[int, str]] = {}
        if self.manifest.finished:
            for row, reason in self.manifest.notes.items():
                self._notes.setdefault(row // spec.chunk_rows, {})[row] = reason
            columns = self.manifest.chunks
            return {n: {array: [columns[array][n]] for array in spec.arrays} for n in range(spec.n_chunks)}
        vouched = read_ledgers(self.files, self._sizes, spec)
        for versions in vouched.versions:
            for library, version in versions.items():
                known = self._versions.get(library, version).split(", ")
                self._versions[library] = ", ".join(sorted({*known, version}))
        words: dict[int, dict[str, list[str]]] = {}
        for chunk, entries in vouched.entries.items():
            self._notes[chunk] = dict(entries[0].notes)
            words[chunk] = {array: [entry.digests[array] for entry in entries] for array in spec.arrays}
        return words

    def _notes_of(self, chunk: int) -> dict[int, str]:
        return self._notes.get(chunk, {})
