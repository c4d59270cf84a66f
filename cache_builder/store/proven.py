"""Rows of a finished column whose chunk files have been compared with the digests of the manifest."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.store.format.file_names import chunk_file
from cckt.cache_builder.store.reader import Column


class ProvenRows:
    """Reads rows of a column; each chunk is checked against its digest at the first use. Picklable."""

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
            self._sound[chunk] = all(
                (data := files.get(chunk_file(array, chunk))) is not None
                and len(data) == manifest.spec.chunk_bytes(array)
                and digest_of(data) == digests[chunk]
                for array, digests in manifest.chunks.items()
            )
        return self._sound[chunk]
