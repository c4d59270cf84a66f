"""Rows to batches to chunks: what happens between a reader's items and a writer's files."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import ColumnWriter, Manifest


@dataclass(frozen=True)
class Item:
    """One row that a reader read. `data` None: the row is invalid, `reason` says why ("" = nothing to
    tell).
    """

    row: int
    data: Any = None
    reason: str = ""


@dataclass
class RunReport:
    """What a run did to one column, in this process. `seconds` and `read_wait` are of the whole run."""

    made: int = 0
    """Chunks written."""
    skipped: int = 0
    """Chunks of this part's share that were finished before."""
    rows: int = 0
    """Rows written."""
    invalid: int = 0
    """Of these, without a value."""
    notes: dict[int, str] = field(default_factory=dict)
    """Row -> reason, of the rows written."""
    seconds: float = 0.0
    read_wait: float = 0.0
    """Seconds the mapper waited for readers: large where reading is the slower part."""
    map_seconds: float = 0.0
    """Seconds in the mapper: near `seconds` where the device is never idle."""
    write_seconds: float = 0.0
    """Seconds in the writer's own thread."""
    manifest: Manifest | None = None
    """The closed manifest; None while other makers' chunks are missing."""


class _Chunk:
    """A chunk on its way: rows read so far, and batches under way."""

    def __init__(self, lo: int, hi: int, width: int) -> None:
        self.lo, self.hi = lo, hi
        self.values = np.zeros((hi - lo, width), np.float32)
        self.valid = np.zeros(hi - lo, bool)
        self.notes: dict[int, str] = {}
        self.pending: list[Item] = []
        self.unread = hi - lo
        self.flying = 0


class Assembly:
    """One column's chunks in the making.

    Batches are the valid rows of one chunk in row order, cut every `batch`: their shapes, and with them a
    teacher's floats, depend on nothing but the rows. A map that returns a function is launched one batch
    ahead of its result.
    """

    def __init__(
        self,
        writer: ColumnWriter,
        map: Callable[[list[Any]], Any],
        batch: int,
        wanted: Container[int],
        sink: WriterThread,
        report: RunReport,
    ) -> None:
        assert batch >= 1, f"batch {batch}"
        self._writer, self._map, self._batch, self._wanted = writer, map, batch, wanted
        self._sink, self._report = sink, report
        self._open: dict[int, _Chunk] = {}
        self._flights: deque[tuple[int, list[int], Any]] = deque()

    def feed(self, lo: int, hi: int, items: Iterable[Item]) -> int:
        """Rows [lo, hi) are read; those without an item are invalid. Returns how many of them were wanted.

        Ranges of one chunk come in ascending order and never overlap.
        """
        spec, counted = self._writer.spec, 0
        found = sorted(items, key=lambda item: item.row)
        assert all(lo <= item.row < hi for item in found), f"the reader of rows {lo}-{hi} gave others"
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
            self._close_if_done(number)
        return counted

    def drain(self) -> None:
        """Land what flies; by now every chunk that was begun must be whole."""
        while self._flights:
            self._land()
        assert not self._open, f"the jobs did not cover chunks {sorted(self._open)}"

    def _launch(self, number: int, batch: list[Item]) -> None:
        chunk = self._open[number]
        mark = time.perf_counter()
        result = self._map([item.data for item in batch])
        self._report.map_seconds += time.perf_counter() - mark
        self._flights.append((number, [item.row - chunk.lo for item in batch], result))
        chunk.flying += 1
        while len(self._flights) > (1 if callable(result) else 0):
            self._land()

    def _land(self) -> None:
        number, rows, result = self._flights.popleft()
        mark = time.perf_counter()
        mapped = np.asarray(result() if callable(result) else result)
        self._report.map_seconds += time.perf_counter() - mark
        expected = (len(rows), self._writer.spec.width)
        assert mapped.shape == expected, f"the mapper gave {mapped.shape}, expected {expected}"
        chunk = self._open[number]
        chunk.values[rows], chunk.valid[rows] = mapped, True
        chunk.flying -= 1
        self._close_if_done(number)

    def _close_if_done(self, number: int) -> None:
        chunk = self._open.get(number)
        if chunk is None or chunk.unread or chunk.pending or chunk.flying:
            return
        del self._open[number]
        self._sink.put(self._writer, self._report, number, chunk.values, chunk.valid, chunk.notes)


class WriterThread:
    """Writes chunks behind the mapper's back, at most two waiting. Its error comes out of `put`, `check` or
    the end.

    When the block is left by an error or a signal, the chunks that are whole are still written.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="cckt-write", daemon=True)

    def __enter__(self) -> WriterThread:
        self._thread.start()
        return self

    def put(self, *work: Any) -> None:
        """Hand over (writer, report, chunk, values, valid, notes); waits for room."""
        self.check()
        self._queue.put(work)

    def check(self) -> None:
        """Raise the writer's error, if it had one."""
        if self._error is not None:
            raise self._error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self.check()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._error is None:
                try:
                    _write(*work)
                except BaseException as error:
                    self._error = error


def _write(
    writer: ColumnWriter,
    report: RunReport,
    chunk: int,
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    notes: dict[int, str],
) -> None:
    mark = time.perf_counter()
    if not writer.spec.has_valid and not valid.all():
        row = writer.bounds(chunk)[0] + int(np.flatnonzero(~valid)[0])
        reason = notes.get(row, "it could not be read")
        raise UserError(
            f"Row {row} of column {writer.spec.name} has no value ({reason}): expected one, mend its source "
            "and run the same command again."
        )
    told = writer.write(chunk, values, valid if writer.spec.has_valid else None, notes)
    report.made += 1
    report.rows += len(values)
    report.invalid += told
    report.notes.update(notes)
    report.write_seconds += time.perf_counter() - mark
