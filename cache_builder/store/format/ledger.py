"""The ledgers: which chunks of an unfinished column are complete.

Each writer has one append-only file, `ledger/<random>.jsonl`: a first line with the column and the writer's
library versions, then one line for each chunk. "check" is the digest of the other fields of a line: a line
that a kill has torn, or that was damaged, counts for nothing. Lines of earlier versions have no "check".
Readers take the union. A finished column has no ledgers: its manifest holds the digests.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.store.format.file_names import BEGUN, LEDGER, is_ledger
from cckt.cache_builder.store.format.spec import ColumnSpec, canonical
from cckt.cache_builder.store.places.contract import ChunkFiles

_CHECK = "check"


@dataclass(frozen=True)
class LedgerEntry:
    """One complete chunk: the digest of its file in each array, its number of invalid rows, and reasons."""

    chunk: int
    digests: Mapping[str, str]
    invalid: int = 0
    notes: Mapping[int, str] = field(default_factory=dict)
    """Row of the column -> reason."""

    def line(self) -> bytes:
        """Return the entry as one line of a ledger."""
        notes = {str(row): reason for row, reason in self.notes.items()}
        fields = {"chunk": self.chunk, "digests": dict(self.digests), "invalid": self.invalid, "notes": notes}
        return _checked_line(fields)


@dataclass
class Ledgers:
    """The union of all ledgers: every distinct entry of each chunk, and the versions of their writers."""

    entries: dict[int, list[LedgerEntry]] = field(default_factory=dict)
    versions: list[Mapping[str, str]] = field(default_factory=list)


class LedgerWriter:
    """The ledger of this process. Its file begins with the first chunk; a fork begins another file."""

    def __init__(self, files: ChunkFiles, spec: ColumnSpec, versions: Mapping[str, str]) -> None:
        self._files = files
        self._head = _checked_line({"column": spec.identity, "versions": dict(versions)})
        self._name = ""
        self._process = -1

    def append(self, entry: LedgerEntry) -> None:
        """Record a chunk whose files are complete."""
        self.append_all([entry])

    def append_all(self, entries: Iterable[LedgerEntry]) -> None:
        """Record chunks with one write."""
        lines = b"".join(entry.line() for entry in entries)
        if self._process != os.getpid():
            self._name, self._process = f"{LEDGER}{uuid.uuid4().hex}.jsonl", os.getpid()
            lines = self._head + lines
        try:
            self._files.append(self._name, lines)
        except BaseException:
            self._process = -1  # the file may end in half a line: never add to it
            raise


def read_ledgers(files: ChunkFiles, names: Iterable[str], spec: ColumnSpec) -> Ledgers:
    """Return the union of the ledgers among `names`.

    A ledger of another column, or without an intact first line, counts for nothing.
    """
    ledgers = Ledgers()
    for name in sorted(name for name in names if is_ledger(name) and name != BEGUN):
        head, *lines = (files.get(name) or b"").split(b"\n")
        fields = _parse(head, "column", "versions")
        if fields.get("column") != spec.identity:
            continue
        count = 0
        for line in lines:
            found = _parse(line, "chunk", "digests", "invalid", "notes")
            if set(found.get("digests", ())) != set(spec.arrays) or not 0 <= found["chunk"] < spec.n_chunks:
                continue
            notes = {int(row): reason for row, reason in found["notes"].items()}
            entry = LedgerEntry(found["chunk"], found["digests"], found["invalid"], notes)
            known = ledgers.entries.setdefault(entry.chunk, [])
            if entry not in known:
                known.append(entry)
            count += 1
        if count:
            ledgers.versions.append(fields["versions"])
    return ledgers


def _checked_line(fields: Mapping[str, Any]) -> bytes:
    """A line with the digest of its fields."""
    return canonical({**fields, _CHECK: digest_of(canonical(fields))}) + b"\n"


def _parse(line: bytes, *names: str) -> dict[str, Any]:
    """The fields `names` of an intact line; {} of a torn or damaged one."""
    try:
        fields = parse_json(line)
        if not isinstance(fields, dict):
            return {}
        check = fields.pop(_CHECK, None)
        if fields.keys() != set(names) or check not in (None, digest_of(canonical(fields))):
            return {}
    except ValueError:  # no JSON, or NaN in it
        return {}
    return fields
