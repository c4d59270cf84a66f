"""From the items of a reader to whole chunks: batch them, map the batches, collect the results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.runner.writer_thread import FinishedChunk, WriterThread
from cckt.cache_builder.store import ColumnWriter


@dataclass(frozen=True)
class Item:
    """One row from a reader: its data for the mapper, or `data` None for an invalid row.

    reason: why the row is invalid; "" where no note is needed.
    """

    row: int
    data: Any = None
    reason: str = ""


class _Chunk:
    """A chunk in progress: its rows so far, items that wait for a batch, batches in the mapper."""

    def __init__(self, lo: int, hi: int, width: int) -> None:
        self.lo, self.hi = lo, hi
        self.values = np.zeros((hi - lo, width), np.float32)
        self.valid = np.zeros(hi - lo, bool)
        self.notes: dict[int, str] = {}
        self.pending: list[Item] = []
        self.unread = hi - lo
        self.batches_in_flight = 0


class ChunkAssembler:
    """Assembles the chunks of one column and hands each complete one to the writer thread.

    A batch holds valid rows of one chunk in row order, `batch` of them, fewer at the end of the chunk. So the
    shapes of batches, and with them the floats of a teacher, depend only on the rows. A mapper that returns
    a function is started one batch before the result of the batch is collected.
    """

    def __init__(
        self,
        writer: ColumnWriter,
        map: Callable[[list[Any]], Any],
        batch: int,
        wanted: Container[int],
        writer_thread: WriterThread,
        report: RunReport,
        target: int = 0,
    ) -> None:
        assert batch >= 1, f"expected batch >= 1, found {batch}"
        self._writer, self._map, self._batch, self._wanted = writer, map, batch, wanted
        self._writer_thread, self._report, self._target = writer_thread, report, target
        self._open: dict[int, _Chunk] = {}
        self._in_flight: deque[tuple[int, list[int], Any]] = deque()

    def add_rows(self, lo: int, hi: int, items: Iterable[Item]) -> int:
        """Take the rows [lo, hi). Rows without an item are invalid.

        Ranges of one chunk must come in ascending order without overlap. Returns how many of the rows are in
        wanted chunks; the others are ignored.
        """
        spec, counted = self._writer.spec, 0
        found = sorted(items, key=lambda item: item.row)
        assert all(lo <= item.row < hi for item in found), (
            f"expected rows {lo} to {hi - 1} from the reader, found {found[0].row} to {found[-1].row}"
        )
        for number in range(lo // spec.chunk_rows, -(-hi // spec.chunk_rows) if hi > lo else 0):
            if number not in self._wanted:
                continue
            start, end = spec.bounds(number)
            if number not in self._open:
                self._open[number] = _Chunk(start, end, spec.width)
            chunk = self._open[number]
            for item in found:
                if start <= item.row < end:
                    if item.data is not None:
                        chunk.pending.append(item)
                    elif item.reason:
                        chunk.notes[item.row] = item.reason
            covered = min(hi, end) - max(lo, start)
            chunk.unread -= covered
            counted += covered
            assert chunk.unread >= 0, f"rows of chunk {number} were read twice"
            while len(chunk.pending) >= self._batch or (chunk.pending and not chunk.unread):
                batch, chunk.pending = chunk.pending[: self._batch], chunk.pending[self._batch :]
                self._launch(number, batch)
            self._write_if_complete(number)
        return counted

    def finish(self) -> None:
        """Collect all results. Every chunk that was begun must be complete by then."""
        while self._in_flight:
            self._collect()
        assert not self._open, f"the jobs did not cover chunks {sorted(self._open)}"

    def _launch(self, number: int, batch: list[Item]) -> None:
        chunk = self._open[number]
        began = time.perf_counter()
        result = self._map([item.data for item in batch])
        self._report.map_seconds += time.perf_counter() - began
        self._in_flight.append((number, [item.row - chunk.lo for item in batch], result))
        chunk.batches_in_flight += 1
        while len(self._in_flight) > (1 if callable(result) else 0):
            self._collect()

    def _collect(self) -> None:
        """Store the result of the oldest batch."""
        number, rows, result = self._in_flight.popleft()
        began = time.perf_counter()
        mapped = np.asarray(result() if callable(result) else result)
        self._report.map_seconds += time.perf_counter() - began
        expected = (len(rows), self._writer.spec.width)
        assert mapped.shape == expected, f"expected {expected} from the mapper, found {mapped.shape}"
        chunk = self._open[number]
        chunk.values[rows], chunk.valid[rows] = mapped, True
        chunk.batches_in_flight -= 1
        self._write_if_complete(number)

    def _write_if_complete(self, number: int) -> None:
        chunk = self._open.get(number)
        if chunk is None or chunk.unread or chunk.pending or chunk.batches_in_flight:
            return
        del self._open[number]
        self._writer_thread.put(
            FinishedChunk(
                self._writer, self._report, number, chunk.values, chunk.valid, chunk.notes, self._target
            )
        )
