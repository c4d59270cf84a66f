"""The loop of every column: read rows of a chunk, map them on the device, write the chunk; the three overlap."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_builder.errors import UserError
from cache_builder.progress import Progress, Silent
from cache_builder.store import ColumnWriter, Manifest


@dataclass(frozen=True)
class Item:
    """One row that a reader read. `data` None: the row is invalid, `reason` says why ("" = nothing to tell)."""

    row: int
    data: Any = None
    reason: str = ""


@dataclass
class RunReport:
    """What `run_chunks` did. Seconds are of this process."""

    made: int = 0
    """Chunks written."""
    skipped: int = 0
    """Chunks found finished, of this part's share."""
    rows: int = 0
    """Rows written."""
    invalid: int = 0
    """Of these, without a value."""
    notes: dict[int, str] = field(default_factory=dict)
    """Row -> reason."""
    seconds: float = 0.0
    read_wait: float = 0.0
    """Seconds the mapper waited for readers: large when decoding is the slower part."""
    map_seconds: float = 0.0
    """Seconds in the mapper: near `seconds` when the device is never idle."""
    write_wait: float = 0.0
    """Seconds the mapper waited for the writer."""
    write_seconds: float = 0.0
    """Seconds in the writer's own thread."""
    manifest: Manifest | None = None
    """The closed manifest; None while other makers' chunks are missing."""


def run_chunks(
    writer: ColumnWriter,
    read: Callable[[int, int], Iterable[Item]],
    map: Callable[[list[Any]], Any],
    *,
    batch: int = 256,
    spans: Callable[[int, int], Sequence[tuple[int, int]]] | None = None,
    workers: int = 2,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
    unit: str = "rows",
) -> RunReport:
    """Make the chunks that are missing, of those this part is dealt (chunk number mod n == i), and finish the column.

    read(lo, hi) yields one `Item` for each row of [lo, hi) it can, in any order; a row it does not yield is invalid.
    It runs in one of `workers` threads (0: in this one) and raises UserError to stop the run.
    map(list of <= `batch` item data) gives (n, width) float, numpy or anything numpy takes, in the same order. It runs in
    the calling thread. Batches are the valid rows of a chunk in row order, cut every `batch`: they never cross a chunk, so
    their shapes, and with them the floats, depend on nothing but the rows.
    spans(lo, hi) cuts a chunk into the ranges `read` is called with (crops: at photos' borders, so that a photo is
    decoded once); default: every 64 rows.
    part: (i, n), 0 <= i < n.

    Kill it anywhere: the same call goes on with the chunks that are missing. Column bytes do not depend on kills or parts.
    """
    progress = progress or Silent()
    began = time.perf_counter()
    report = RunReport()
    mine = [chunk for chunk in range(writer.n_chunks) if chunk % part[1] == part[0]]
    missing = set(writer.missing())
    todo = [chunk for chunk in mine if chunk in missing]
    report.skipped = len(mine) - len(todo)
    bounds = [writer.bounds(chunk) for chunk in todo]
    progress.start(writer.spec.name, sum(hi - lo for lo, hi in bounds), unit)
    with _WriterThread(writer, report) as sink:
        pieces = _read_ahead(read, spans or _every_64, bounds, workers)
        for chunk, (lo, hi) in zip(todo, bounds, strict=True):
            values = np.zeros((hi - lo, writer.spec.width), np.float32)
            valid = np.zeros(hi - lo, bool)
            notes: dict[int, str] = {}
            pending: list[Item] = []
            while True:
                mark = time.perf_counter()
                piece = next(pieces)
                report.read_wait += time.perf_counter() - mark
                items = sorted(piece or (), key=lambda item: item.row)
                notes.update({item.row: item.reason for item in items if item.data is None and item.reason})
                pending.extend(item for item in items if item.data is not None)
                while len(pending) >= batch or (piece is None and pending):
                    now, pending = pending[:batch], pending[batch:]
                    mark = time.perf_counter()
                    mapped = np.asarray(map([item.data for item in now]))
                    report.map_seconds += time.perf_counter() - mark
                    rows = [item.row - lo for item in now]
                    values[rows], valid[rows] = mapped, True
                    progress.advance(len(now))
                if piece is None:
                    break
            progress.advance(hi - lo - int(valid.sum()))
            mark = time.perf_counter()
            sink.put((chunk, values, valid, notes))
            report.write_wait += time.perf_counter() - mark
    report.manifest = writer.try_finish()
    report.seconds = time.perf_counter() - began
    progress.finish()
    return report


def _every_64(lo: int, hi: int) -> list[tuple[int, int]]:
    return [(start, min(start + 64, hi)) for start in range(lo, hi, 64)]


def _read_ahead(
    read: Callable[[int, int], Iterable[Item]],
    spans: Callable[[int, int], Sequence[tuple[int, int]]],
    bounds: Sequence[tuple[int, int]],
    workers: int,
) -> Iterator[list[Item] | None]:
    """Items of one span after another, in order, None after each chunk; a bounded number of spans is read ahead."""
    jobs = (job for lo, hi in bounds for job in (*spans(lo, hi), None))
    if workers == 0:
        for job in jobs:
            yield None if job is None else list(read(*job))
        return
    ahead: deque[Future[list[Item]] | None] = deque()
    pool: Executor = ThreadPoolExecutor(workers, thread_name_prefix="cckt-read")
    try:
        for job in jobs:
            ahead.append(None if job is None else pool.submit(lambda lo, hi: list(read(lo, hi)), *job))
            while len(ahead) > 2 * workers:
                done = ahead.popleft()
                yield None if done is None else done.result()
        while ahead:
            done = ahead.popleft()
            yield None if done is None else done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _WriterThread:
    """Writes chunks behind the mapper's back, at most two waiting; its error comes out of `put` or the with-block."""

    def __init__(self, writer: ColumnWriter, report: RunReport) -> None:
        self._writer, self._report = writer, report
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="cckt-write", daemon=True)

    def __enter__(self) -> _WriterThread:
        self._thread.start()
        return self

    def put(self, chunk: tuple[int, NDArray[Any], NDArray[np.bool_], dict[int, str]]) -> None:
        """Hand over a chunk; waits for room."""
        if self._error is not None:
            raise self._error
        self._queue.put(chunk)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._error is not None:
                continue
            mark = time.perf_counter()
            chunk, values, valid, notes = work
            try:
                if self._writer.spec.has_valid:
                    invalid = self._writer.write(chunk, values, valid, notes)
                elif valid.all():
                    invalid = self._writer.write(chunk, values)
                else:
                    row = self._writer.bounds(chunk)[0] + int(np.flatnonzero(~valid)[0])
                    reason = notes.get(row, "it was not read")
                    raise UserError(
                        f"Row {row} of column {self._writer.spec.name} has no value ({reason}): mend its source."
                    )
            except BaseException as error:
                self._error = error
                continue
            self._report.made += 1
            self._report.rows += len(values)
            self._report.invalid += invalid
            self._report.notes.update(notes)
            self._report.write_seconds += time.perf_counter() - mark
