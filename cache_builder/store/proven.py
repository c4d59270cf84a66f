"""Rows of a finished column whose chunk files have been compared with the digests of the manifest."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.format.file_names import chunk_file
from cckt.cache_builder.store.reader import Column


class ProvenRows:
    """Reads rows of a column; each chunk is checked against its digest at the first use. Picklable.

    A chunk is mapped before it is checked. So the rows are those that were checked, even if another process
    replaces the column in between: it moves other files to its place, and the map keeps the old ones.
    """

    def __init__(self, column: Column) -> None:
        self.column = column
        self._sound: dict[int, bool] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[Column]:
        return (self.column,)

    def __setstate__(self, state: tuple[Column]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def usable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n,) bool for rows (n,), -1 for none: whether a row has a value, in a sound chunk."""
        found = rows >= 0
        chunk_rows = self.column.manifest.spec.chunk_rows
        for chunk in np.unique(rows[found] // chunk_rows).tolist():
            if not self._is_sound(chunk):
                found &= rows // chunk_rows != chunk
        with self._lock:
            found[found] = self.column.valid(rows[found])
        return found

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the values of `usable` rows (n,): (n, width)."""
        with self._lock:  # a mapped column maps its chunks at their first use
            return self.column.take(rows)

    def _is_sound(self, chunk: int) -> bool:
        """Whether the files of a chunk have the digests of the manifest."""
        if chunk not in self._sound:
            manifest, files = self.column.manifest, self.column.files
            mapped = self._mapped(chunk)
            self._sound[chunk] = mapped & all(  # `&`: files that may not be read are reported
                (data := files.get(chunk_file(array, chunk))) is not None
                and len(data) == manifest.spec.chunk_bytes(array)
                and digest_of(data) == digests[chunk]
                for array, digests in manifest.chunks.items()
            )
        return self._sound[chunk]

    def _mapped(self, chunk: int) -> bool:
        """Map the files of a chunk; False if one is missing or has another size."""
        first = np.array([chunk * self.column.manifest.spec.chunk_rows])
        try:
            with self._lock:
                self.column.valid(first)
                self.column.take(first)
        except UserError:
            return False
        return True
