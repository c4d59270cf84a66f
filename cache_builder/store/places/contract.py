"""What the store needs of a place that holds a column: `ChunkFiles`, and which names of columns are safe."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from cckt.cache_builder.base.errors import UserError

Bytes = bytes | memoryview

TEMPORARY = ".tmp-"
"""Prefix of file names that a killed writer may leave behind; never part of a column."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")


class ChunkFiles(Protocol):
    """Named bytes under one place. Names use "/".

    A missing name is None; every other failure is a UserError. A name has its old bytes or its new ones,
    never a part of them.
    """

    place: str
    """The folder or URL, for messages."""

    def put(self, name: str, data: Bytes, *, new: bool = False) -> bool:
        """Write all bytes of a name at once. With `new` an existing name stays as it is: return False."""

    def get(self, name: str) -> bytes | None:
        """Return the bytes of a name."""

    def size(self, name: str) -> int | None:
        """Return the number of bytes of a name."""

    def append(self, name: str, data: bytes) -> None:
        """Add bytes to a name that has only this writer; a kill may leave half of the last line."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return every name under the place with its number of bytes; empty if the place does not exist.

        folder: "" for all, or the start of the names up to a "/".
        """

    def remove(self, names: Iterable[str]) -> None:
        """Delete names; missing ones are fine."""

    def clear(self) -> None:
        """Delete the whole place."""

    def locked(self) -> AbstractContextManager[object]:
        """Hold the place against other processes that lock it; nobody waits where there are no locks."""

    def path(self, name: str) -> Path | None:
        """Return the path under which a name can be memory-mapped; None if it cannot."""


class RowsGuard(Protocol):
    """Tells whether the files of chunks are those of the column that was opened."""

    reads_content: bool
    """Whether `require_sound` reads the whole content."""

    def require_current(self) -> None:
        """Raise UserError if another column has taken the place of the one that was opened."""

    def require_sound(self, chunk: int, content: Bytes) -> None:
        """Raise UserError if this is not the content of a chunk, as far as the guard looks."""


def check_name(name: str) -> None:
    """Raise UserError unless `name` is a relative path inside its data set and outside the index."""
    if not _NAME.fullmatch(name) or name.split("/")[0] == "index":
        raise UserError(
            f"Column name {name!r} cannot be used: expected lower-case words, digits, - and _ joined by /, "
            "and not index; choose another name."
        )
