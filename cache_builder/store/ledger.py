"""The ledgers: which chunks of an unfinished column are whole, and by whose word.

One append-only file a writer, `ledger/<random>.jsonl`: a first line that names the column and the writer's
library versions, then a line a chunk. A kill may tear the last line; a torn line vouches for nothing. Readers
take the union. A finished column has no ledgers: its manifest vouches.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cckt.cache_builder.store.places.files import ChunkFiles
from cckt.cache_builder.store.spec import ColumnSpec, canonical

FOLDER = "ledger/"


@dataclass(frozen=True)
class Entry:
    """One vouched chunk: digest of its file in each array, rows invalid, and why."""

    chunk: int
    digests: Mapping[str, str]
    invalid: int = 0
    notes: Mapping[int, str] = field(default_factory=dict)

    def line(self) -> bytes:
        """The entry as one line of a ledger."""
        notes = {str(row): reason for row, reason in self.notes.items()}
        fields = {"chunk": self.chunk, "digests": dict(self.digests), "invalid": self.invalid, "notes": notes}
        return canonical(fields) + b"\n"


@dataclass
class Vouched:
    """The union of all ledgers: every distinct word on each chunk, and the versions of those who gave it."""

    entries: dict[int, list[Entry]] = field(default_factory=dict)
    versions: list[Mapping[str, str]] = field(default_factory=list)


class LedgerWriter:
    """This process's own ledger. It begins at the first chunk; a fork begins another."""

    def __init__(self, files: ChunkFiles, spec: ColumnSpec, versions: Mapping[str, str]) -> None:
        self._files = files
        self._head = canonical({"column": spec.identity, "versions": dict(versions)}) + b"\n"
        self._name = ""
        self._process = -1

    def append(self, entry: Entry) -> None:
        """Vouch for a chunk whose files are in their places already."""
        self.append_all([entry])

    def append_all(self, entries: Iterable[Entry]) -> None:
        """Vouch for chunks, in one piece."""
        lines = b"".join(entry.line() for entry in entries)
        if self._process != os.getpid():
            self._name, self._process = f"{FOLDER}{uuid.uuid4().hex}.jsonl", os.getpid()
            lines = self._head + lines
        try:
            self._files.append(self._name, lines)
        except BaseException:
            self._process = -1  # the file may end in half a line: never add to it
            raise


def read_ledgers(files: ChunkFiles, names: Mapping[str, Any], spec: ColumnSpec) -> Vouched:
    """Union of the ledgers among `names`; those of another column or without a whole first line count for
    nothing.
    """
    vouched = Vouched()
    for name in sorted(name for name in names if name.startswith(FOLDER) and name.endswith(".jsonl")):
        head, *lines = (files.get(name) or b"").split(b"\n")
        fields = _parse(head)
        if fields.get("column") != spec.identity:
            continue
        count = 0
        for line in lines:
            found = _parse(line)
            if set(found.get("digests", ())) != set(spec.arrays) or not 0 <= found["chunk"] < spec.n_chunks:
                continue
            notes = {int(row): reason for row, reason in found["notes"].items()}
            entry = Entry(found["chunk"], found["digests"], found["invalid"], notes)
            known = vouched.entries.setdefault(entry.chunk, [])
            if entry not in known:
                known.append(entry)
            count += 1
        if count:
            vouched.versions.append(fields["versions"])
    return vouched


def _parse(line: bytes) -> dict[str, Any]:
    """A whole line's fields; {} for a torn one."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
