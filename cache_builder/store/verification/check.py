"""Check the files of a column, one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import counted
from cckt.cache_builder.store.agreement import Agreement, agreement
from cckt.cache_builder.store.format.block import UNIT_TOLERANCE
from cckt.cache_builder.store.format.file_names import (
    BEGUN,
    GROUP,
    chunk_file,
    document_file,
    is_claim,
    is_ledger,
    is_temporary,
)
from cckt.cache_builder.store.format.layout import array_documents
from cckt.cache_builder.store.format.ledger import LedgerEntry, LedgerWriter, read_ledgers
from cckt.cache_builder.store.format.manifest import Manifest
from cckt.cache_builder.store.format.spec import run_bounds, some_runs
from cckt.cache_builder.store.places.contract import ChunkFiles
from cckt.cache_builder.store.reader import Column


@dataclass(frozen=True)
class Problem:
    """One fault of a column."""

    kind: str
    """A word for programs: manifest, group, unfinished, index, rows, document, missing, size, digest,
    swapped, not_finite, not_unit, not_zero, invalid_count, foreign, recompute, photo or recoverable."""
    message: str
    chunk: int | None = None
    """The chunk to make again, if that repairs the fault."""


class Check:
    """The state of one verification."""

    def __init__(self, files: ChunkFiles, manifest: Manifest) -> None:
        self.files, self.manifest, self.spec = files, manifest, manifest.spec
        self.problems: list[Problem] = []
        self.bad: set[int] = set()
        self.bad_documents = False
        self.bad_group = False
        self.invalid = 0
        self._good: dict[int, LedgerEntry] = {}
        self._sizes = files.sizes()
        self._versions: dict[str, str] = dict(manifest.versions)
        self._entries: dict[int, LedgerEntry] = {}
        """Of an unfinished column: chunk -> its first entry."""
        self._expected = self._digests()
        """Chunk -> array -> digests that its file may have."""
        self._homes = {
            digest: chunk for chunk, arrays in self._expected.items() for digest in arrays["values"]
        }

    def report(self, kind: str, message: str, chunk: int | None = None) -> None:
        """Add a problem; a chunk given with it must be made again."""
        self.problems.append(Problem(kind, message, chunk))
        if chunk is not None:
            self.bad.add(chunk)

    def alignment(self, index_digest: str | None, table_rows: int | None) -> None:
        """Check that the column belongs to the index."""
        spec = self.spec
        if index_digest is not None and spec.index_digest != index_digest:
            self.report(
                "index", f"made for {spec.owner} {spec.index_digest}, this data set's is {index_digest}"
            )
        if table_rows is not None and spec.rows != table_rows:
            self.report("rows", f"{counted(spec.rows, 'row')}, the table of {spec.table} has {table_rows}")

    def names(self) -> None:
        """Check the documents of the column, and that there are no other files than its own."""
        if self.files.get(GROUP) != self.manifest.to_bytes():
            self.report("group", f"{GROUP} is not as it was written")
            self.bad_group = True
        documents = {document_file(array) for array in self.spec.arrays}
        for name in sorted(documents):
            data = self.files.get(name)
            if data is None or digest_of(data) != self.manifest.documents[name]:
                self.report("document", f"{name} is {'missing' if data is None else 'not as it was written'}")
                self.bad_documents = True
        chunks = {
            chunk_file(array, chunk) for array in self.spec.arrays for chunk in range(self.spec.n_chunks)
        }
        for name in sorted(set(self._sizes) - documents - chunks - {GROUP}):
            if self.manifest.finished or not (is_ledger(name) or is_claim(name) or is_temporary(name)):
                self.report("foreign", f"{name} does not belong to the column")
        if not self.manifest.finished:
            missing = [chunk for chunk in range(self.spec.n_chunks) if chunk not in self._expected]
            which = f", chunks {some_runs(missing)} are missing" if missing else ""
            self.report("unfinished", f"the column is not finished{which}")

    def chunk(self, chunk: int) -> None:
        """Check one chunk that has a digest; keep its ledger entry if nothing is wrong."""
        if chunk not in self._expected:
            return
        before = len(self.problems)
        blocks: dict[str, NDArray[Any]] = {}
        digests = {}
        for array, (width, dtype) in self.spec.arrays.items():
            name = chunk_file(array, chunk)
            data, size = self.files.get(name), self.spec.chunk_bytes(array)
            if data is None:
                self.report("missing", f"{name} is missing", chunk)
            elif len(data) != size:
                self.report("size", f"{name} has {len(data)} bytes, expected {size}", chunk)
            else:
                digests[array] = digest_of(data)
                blocks[array] = np.frombuffer(data, dtype).reshape(-1, width)
                if digests[array] not in self._expected[chunk][array]:
                    self._wrong_digest(array, chunk, digests[array])
        if "values" in blocks and ("valid" in blocks or not self.spec.has_valid):
            invalid = self._rows(chunk, blocks)
            if len(self.problems) == before:
                self._good[chunk] = LedgerEntry(chunk, digests, invalid)

    def _wrong_digest(self, array: str, chunk: int, found: str) -> None:
        name = chunk_file(array, chunk)
        home = self._homes.get(found) if array == "values" else None
        if home is not None:
            self.report("swapped", f"{name} holds the rows of chunk {home}", chunk)
        else:
            expected = " or ".join(self._expected[chunk][array])
            self.report("digest", f"{name} has digest {found}, expected {expected}", chunk)

    def _rows(self, chunk: int, blocks: dict[str, NDArray[Any]]) -> int:
        """Check for finite, unit and zero rows; count the invalid ones."""
        lo, hi = self.spec.bounds(chunk)
        values = blocks["values"][: hi - lo]
        flags = blocks["valid"][: hi - lo, 0].astype(bool) if self.spec.has_valid else np.ones(hi - lo, bool)
        invalid = int((~flags).sum())
        self.invalid += invalid
        where = f"in chunk {chunk} (rows {lo}-{hi - 1})"
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            self.report("not_finite", f"{_rows_are(~finite)} not finite {where}", chunk)
        if self.spec.unit:
            lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
            wrong = flags & finite & (np.abs(lengths - 1) > UNIT_TOLERANCE[self.spec.dtype])
            if wrong.any():
                self.report("not_unit", f"{_rows_are(wrong)} not of length 1 {where}", chunk)
        if values[~flags].any() or blocks["values"][hi - lo :].any():
            self.report("not_zero", f"invalid or padding rows are not zero {where}", chunk)
        return invalid

    def recompute(
        self, remake: Callable[[NDArray[np.int64]], NDArray[Any]], sample: int, seed: int, minimum: float
    ) -> Agreement | None:
        """Compare a sample of stored rows with the same rows made again; None without a valid row."""
        column = Column(self.files, self.manifest)
        valid = np.flatnonzero(column.valid_all())
        rows = np.sort(np.random.default_rng(seed).permutation(valid)[:sample])
        if not len(rows):
            return None
        made = np.asarray(remake(rows))
        lost = np.isnan(made).all(axis=1)
        if lost.any():
            self.report(
                "photo",
                f"{int(lost.sum())} of {len(rows)} sampled rows cannot be made again (the first is row "
                f"{int(rows[lost][0])}): their photos cannot be read",
            )
        rows, made = rows[~lost], made[~lost]
        if not len(rows):
            return None
        agreed = agreement(column.take(rows), made)
        if not agreed.minimum >= minimum:
            worst = int(rows[agreed.worst])
            self.report(
                "recompute", f"row {worst} has cosine {agreed.minimum:.6f} to the teacher's, under {minimum}"
            )
        return agreed

    def remove_temporary(self) -> None:
        """Remove what killed writers left."""
        self.files.remove(name for name in self._sizes if is_temporary(name) or is_claim(name))

    def rewrite_group(self) -> None:
        """Write the group document as the manifest in it says."""
        self.files.put(GROUP, self.manifest.to_bytes())

    def mark_missing(self) -> None:
        """Unfinish the column and record only its good chunks, in an order that a kill cannot spoil."""
        documents = array_documents(self.spec)
        if self.bad_documents:
            for name, document in documents.items():
                self.files.put(name, document, new=True) or self.files.put(name, document)
            digests = {name: digest_of(document) for name, document in documents.items()}
        else:
            digests = dict(self.manifest.documents)
        old = [name for name in self._sizes if is_ledger(name) and name != BEGUN]
        self.files.put(BEGUN, b"", new=True)
        good = {chunk: entry for chunk, entry in self._good.items() if chunk not in self.bad}
        notes = self._notes_of(good)
        entries = [
            LedgerEntry(chunk, entry.digests, entry.invalid, notes.get(chunk, {}))
            for chunk, entry in good.items()
        ]
        LedgerWriter(self.files, self.spec, self._versions).append_all(entries)
        self.files.put(GROUP, Manifest(self.spec, digests).to_bytes())
        self.files.remove(old)

    def _digests(self) -> dict[int, dict[str, list[str]]]:
        """Chunk -> array -> digests it may have: one by the manifest, or those of the ledgers."""
        if self.manifest.finished:
            chunks, arrays = self.manifest.chunks, self.spec.arrays
            return {n: {array: [chunks[array][n]] for array in arrays} for n in range(self.spec.n_chunks)}
        ledgers = read_ledgers(self.files, self._sizes, self.spec)
        for versions in ledgers.versions:
            for library, version in versions.items():
                known = self._versions.get(library, version).split(", ")
                self._versions[library] = ", ".join(sorted({*known, version}))
        self._entries = {chunk: entries[0] for chunk, entries in ledgers.entries.items()}
        return {
            chunk: {array: [entry.digests[array] for entry in entries] for array in self.spec.arrays}
            for chunk, entries in ledgers.entries.items()
        }

    def _notes_of(self, good: dict[int, LedgerEntry]) -> dict[int, dict[int, str]]:
        """Chunk -> row -> reason, of good chunks: runs are expanded only to rows that files really hold."""
        if not self.manifest.finished:
            return {chunk: dict(self._entries[chunk].notes) for chunk in good}
        notes: dict[int, dict[int, str]] = {chunk: {} for chunk in good}
        size = self.spec.chunk_rows
        for reason, runs in self.manifest.reasons.items():
            for first, last in run_bounds(runs):
                for chunk in range(first // size, last // size + 1):
                    if chunk in notes:
                        lo, hi = max(first, chunk * size), min(last + 1, (chunk + 1) * size)
                        notes[chunk].update(dict.fromkeys(range(lo, hi), reason))
        return {chunk: dict(sorted(rows.items())) for chunk, rows in notes.items()}


def _rows_are(mask: NDArray[np.bool_]) -> str:
    return counted(int(mask.sum()), "row is", "rows are")
