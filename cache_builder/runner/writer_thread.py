"""Write finished chunks in a thread, while the next ones are read and mapped."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.store import ColumnWriter


@dataclass(frozen=True)
class FinishedChunk:
    """A chunk to write; see `ColumnWriter.write` for the arrays. The report gets its counts."""

    writer: ColumnWriter
    report: RunReport
    number: int
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    notes: dict[int, str]
    copied: int = 0
    """Rows that were copied from another column."""
    target: int = 0
    """Number of the target among those of the run."""


class WriterThread:
    """A context that writes chunks in the background; at most two wait in its queue.

    written: called in the thread with the number of the target and the chunk, after each write.

    An error of the thread is raised by `put`, by `check`, or at the end of the block. If an error or a signal
    ends the block, the chunks in the queue are still written.
    """

    def __init__(self, written: Callable[[int, int], None] = lambda target, chunk: None) -> None:
        self._written = written
        self._queue: queue.Queue[FinishedChunk | None] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="cckt-write", daemon=True)

    def __enter__(self) -> WriterThread:
        self._thread.start()
        return self

    def put(self, chunk: FinishedChunk) -> None:
        """Queue a chunk; wait while the queue is full."""
        self.check()
        self._queue.put(chunk)

    def check(self) -> None:
        """Raise the error of the thread, if any."""
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Wait until all queued chunks are written."""
        self._queue.join()
        self.check()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self.check()

    def _work(self) -> None:
        while (chunk := self._queue.get()) is not None:
            if self._error is None:
                try:
                    _write(chunk)
                    self._written(chunk.target, chunk.number)
                except BaseException as error:
                    self._error = error
            self._queue.task_done()


def _write(chunk: FinishedChunk) -> None:
    began = time.perf_counter()
    writer, report = chunk.writer, chunk.report
    if not writer.spec.has_valid and not chunk.valid.all():
        row = writer.bounds(chunk.number)[0] + int(np.flatnonzero(~chunk.valid)[0])
        reason = chunk.notes.get(row, "it could not be read")
        raise UserError(
            f"row {row} of column {writer.spec.name} has no value ({reason}), expected one in every row; "
            "repair its source and run the same command again."
        )
    valid = chunk.valid if writer.spec.has_valid else None
    invalid = writer.write(chunk.number, chunk.values, valid, chunk.notes)
    report.made += 1
    report.rows += len(chunk.values)
    report.copied += chunk.copied
    report.invalid += invalid
    report.notes.update(chunk.notes)
    report.write_seconds += time.perf_counter() - began
