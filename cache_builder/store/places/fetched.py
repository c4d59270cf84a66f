"""Rows of chunk files that cannot be memory-mapped: fetched as a whole and kept for a while."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.format.file_names import chunk_file
from cckt.cache_builder.store.format.spec import ColumnSpec
from cckt.cache_builder.store.places.contract import ChunkFiles, RowsGuard

KEPT_BYTES = 256 << 20
"""Bytes of fetched chunks that a reader keeps; the least recently used are dropped first."""


class FetchedRows:
    """The same reads as `MappedRows`, through `ChunkFiles.get`.

    Slow for random rows: copy the column with `pull` before training.
    """

    def __init__(self, files: ChunkFiles, spec: ColumnSpec, array: str, guard: RowsGuard) -> None:
        self._files, self._spec, self._array, self._guard = files, spec, array, guard
        self._width, self._dtype = spec.arrays[array]
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._room = max(1, KEPT_BYTES // max(1, spec.chunk_bytes(array)))

    def take(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return a copy, (n, width), of rows (n,); each chunk is fetched once."""
        out = np.empty((len(rows), self._width), self._dtype)
        chunks, offsets = np.divmod(rows, self._spec.chunk_rows)
        order = np.argsort(chunks, kind="stable")
        starts = np.flatnonzero(np.diff(chunks[order], prepend=-1))
        for places in np.split(order, starts[1:]) if len(rows) else []:
            out[places] = self._chunk(int(chunks[places[0]]))[offsets[places]]
        return out

    def slice(self, lo: int, hi: int) -> NDArray[Any]:
        """Return a copy of rows [lo, hi)."""
        return self.take(np.arange(lo, hi))

    def _chunk(self, chunk: int) -> NDArray[Any]:
        if chunk in self._kept:
            self._kept.move_to_end(chunk)
            return self._kept[chunk]
        name = chunk_file(self._array, chunk)
        data = self._files.get(name)
        expected = self._spec.chunk_bytes(self._array)
        if data is None or len(data) != expected:
            self._guard.require_current()
            found = "no such file" if data is None else f"{len(data)} bytes"
            raise UserError(
                f"Chunk file {self._files.place}/{name} gave {found}: expected {expected} bytes, run "
                "`cckt cache verify DATA --repair`, with DATA its data set."
            )
        self._guard.require_sound(chunk, data)
        self._kept[chunk] = np.frombuffer(data, self._dtype).reshape(-1, self._width)
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)
        return self._kept[chunk]
