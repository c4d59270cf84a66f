"""From the items of a reader to whole chunks: batch them, map the batches, collect the results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.runner.writer_thread import FinishedChunk, WriterThread
from cckt.cache_builder.store import ColumnWriter

MOST_OPEN = 32
"""Chunks that wait at the same time for the rest of a batch: a bound of memory and of what a kill loses."""

MOST_WAIT = 15.0
"""Seconds that a chunk of which every row is read waits for the rest of a batch, with slow readers."""


@dataclass(frozen=True)
class Item:
    """One row from a reader: its data for the mapper, or its value, or neither for an invalid row.

    reason: why the row is invalid; "" where no note is needed. value: (width,) of a row that is known without
    the mapper, such as one that is copied from another column.
    """

    row: int
    data: Any = None
    reason: str = ""
    value: NDArray[Any] | None = None


class _Chunk:
    """A chunk in progress: its rows so far, and the numbers of rows that are not read or not mapped yet."""

    def __init__(self, lo: int, hi: int, width: int) -> None:
        self.lo, self.hi = lo, hi
        self.values = np.zeros((hi - lo, width), np.float32)
        self.valid = np.zeros(hi - lo, bool)
        self.notes: dict[int, str] = {}
        self.unread = hi - lo
        self.unmapped = 0
        self.copied = 0
        self.read_at = 0.0
        """When its last row was read."""


class ChunkAssembler:
    """Assembles the chunks of one column and hands each complete one to the writer thread.

    A batch holds valid rows of one chunk in row order, `batch` of them, fewer at the end of the chunk. So the
    shapes of batches, and with them the floats of a teacher, depend only on the rows. Rows that are
    `independent` of their batch wait for rows of the next chunks instead, until `finish`, while at most
    MOST_OPEN chunks wait, none longer than MOST_WAIT. A mapper that returns a function is started one batch
    before the result of the batch is collected.
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
        independent: bool = False,
    ) -> None:
        assert batch >= 1, f"expected batch >= 1, found {batch}"
        self._independent = independent
        self._writer, self._map, self._batch, self._wanted = writer, map, batch, wanted
        self._writer_thread, self._report, self._target = writer_thread, report, target
        self._open: dict[int, _Chunk] = {}
        self._pending: list[tuple[int, Item]] = []
        """(chunk, item) that wait for a batch, in row order."""
        self._in_flight: deque[tuple[list[tuple[int, int]], Any]] = deque()
        """(chunk, row) of each row of a batch, and its result."""

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
                    if item.value is not None:
                        chunk.values[item.row - start], chunk.valid[item.row - start] = item.value, True
                        chunk.copied += 1
                    elif item.data is not None:
                        self._pending.append((number, item))
                        chunk.unmapped += 1
                    elif item.reason:
                        chunk.notes[item.row] = item.reason
            covered = min(hi, end) - max(lo, start)
            chunk.unread -= covered
            chunk.read_at = time.monotonic()
            counted += covered
            assert chunk.unread >= 0, f"rows of chunk {number} were read twice"
            while len(self._pending) >= self._batch or (self._pending and self._must_launch(chunk)):
                self._launch()
            self._write_if_complete(number)
        return counted

    def finish(self) -> None:
        """Map what waits. Every chunk that was begun must be complete by then."""
        self.map_waiting()
        assert not self._open, f"the jobs did not cover chunks {sorted(self._open)}"

    def map_waiting(self) -> None:
        """Map the rows that wait for a batch and collect all results; complete chunks are written."""
        while self._pending:
            self._launch()
        while self._in_flight:
            self._collect()

    def keep_complete(self) -> None:
        """Map what waits of chunks of which every row is read, so that an error of a reader loses none."""
        self._pending = [(number, item) for number, item in self._pending if not self._open[number].unread]
        self.map_waiting()

    def _must_launch(self, chunk: _Chunk) -> bool:
        """Whether rows that wait are mapped although they do not fill a batch. chunk: read last."""
        if not self._independent:
            return not chunk.unread
        oldest = self._open[self._pending[0][0]]
        late = not oldest.unread and time.monotonic() - oldest.read_at > MOST_WAIT
        return late or len(self._open) > MOST_OPEN

    def _launch(self) -> None:
        """Begin the mapping of the first batch of rows that wait."""
        batch, self._pending = self._pending[: self._batch], self._pending[self._batch :]
        began = time.perf_counter()
        result = self._map([item.data for _, item in batch])
        self._report.map_seconds += time.perf_counter() - began
        self._in_flight.append(([(number, item.row) for number, item in batch], result))
        while len(self._in_flight) > (1 if callable(result) else 0):
            self._collect()

    def _collect(self) -> None:
        """Store the result of the oldest batch."""
        rows, result = self._in_flight.popleft()
        began = time.perf_counter()
        mapped = np.asarray(result() if callable(result) else result)
        self._report.map_seconds += time.perf_counter() - began
        expected = (len(rows), self._writer.spec.width)
        assert mapped.shape == expected, f"expected {expected} from the mapper, found {mapped.shape}"
        for (number, row), value in zip(rows, mapped, strict=True):
            chunk = self._open[number]
            chunk.values[row - chunk.lo], chunk.valid[row - chunk.lo] = value, True
            chunk.unmapped -= 1
        for number in sorted({number for number, _ in rows}):
            self._write_if_complete(number)

    def _write_if_complete(self, number: int) -> None:
        chunk = self._open.get(number)
        if chunk is None or chunk.unread or chunk.unmapped:
            return
        del self._open[number]
        self._writer_thread.put(
            FinishedChunk(
                self._writer,
                self._report,
                number,
                chunk.values,
                chunk.valid,
                chunk.notes,
                chunk.copied,
                self._target,
            )
        )
