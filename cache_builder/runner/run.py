"""Make one column, or several in one pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cckt.cache_builder.base.constants import BATCH
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.runner.chunk_assembler import ChunkAssembler, Item
from cckt.cache_builder.runner.parts import chunks_to_make, part_of, share
from cckt.cache_builder.runner.read_ahead import read_ahead
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.runner.signals import Interrupted, Stop, stoppable
from cckt.cache_builder.runner.writer_thread import WriterThread
from cckt.cache_builder.store import ColumnWriter

Range = tuple[int, int]
Job = tuple[Range, ...]
"""The work of one call of a reader: rows [lo, hi) of each target; lo == hi for a target without rows."""


@dataclass(frozen=True)
class Target:
    """One column of a run: its writer, and the mapper from item data to rows. See `run_chunks`."""

    writer: ColumnWriter
    map: Callable[[list[Any]], Any]
    batch: int = BATCH
    independent: bool = False


def run_chunks(
    writer: ColumnWriter,
    read: Callable[[int, int], Iterable[Item]],
    map: Callable[[list[Any]], Any],
    *,
    batch: int = BATCH,
    independent: bool = False,
    spans: Callable[[int, int], Sequence[Range]] | None = None,
    workers: int = 2,
    processes: bool = False,
    part: tuple[int, int] | None = None,
    assist: bool | None = None,
    progress: Progress | None = None,
    unit: str = "rows",
) -> RunReport:
    """Make the missing chunks of this part. Finish the column when no chunk is missing.

    read: read(lo, hi) yields one `Item` for each row of [lo, hi) in any order; rows without an item are
        invalid. Runs in one of `workers` threads (0: in this thread), or with `processes` in spawned
        processes, which pickle it and its items. Raises UserError to stop the run.
    map: takes a list of at most `batch` item data and returns (n, width) float in the same order, as numpy or
        anything that numpy converts. Runs in the calling thread. It may return a function without arguments
        that returns the rows: that function is called after the next batch has been started, so that an
        asynchronous device never waits for the host.
    batch: rows that are mapped together: valid rows of one chunk in row order. It belongs in the recipe.
    independent: a row does not depend on the other rows of its batch, so that a batch may hold rows of
        several chunks.
    spans: spans(lo, hi) divides a chunk into the ranges that `read` is called with, such as the boxes of one
        photo, so that a photo is decoded once. Default: every 64 rows.
    part: (i, n), the chunks with number % n == i. Default: torchrun's RANK of WORLD_SIZE, else all chunks.
    assist: make chunks of other parts when the own share is done. Default: only where `part` is None.

    After a kill the same call resumes with the missing chunks, for any number of processes; the bytes are the
    same. Raises Interrupted (a UserError) on Ctrl-C and SIGTERM, and the errors of `read`, `map` and the
    store.
    """
    if assist is None:
        assist = part is None
    part = part or part_of()
    mine = share(writer, part)
    report = RunReport()
    missing = set(writer.missing())
    rows = sum(hi - lo for lo, hi in (writer.bounds(chunk) for chunk in mine if chunk in missing))
    report.skipped = sum(chunk not in missing for chunk in mine)
    wanted: set[int] = set()
    cut = spans or _every_64

    def jobs() -> Iterator[Job]:
        for chunk in chunks_to_make(writer, part, assist) if missing else ():
            wanted.add(chunk)
            for span in cut(*writer.bounds(chunk)):
                yield (span,)

    target = Target(writer, map, batch, independent)
    _run(
        [target],
        jobs(),
        partial(_read_one, read),
        [wanted],
        [report],
        workers,
        processes,
        rows,
        progress,
        unit,
    )
    return report


def run_targets(
    targets: Sequence[Target],
    jobs: Sequence[Job],
    read: Callable[[Job], Iterable[tuple[int, Item]]],
    *,
    workers: int = 2,
    processes: bool = False,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
    unit: str = "rows",
) -> list[RunReport]:
    """Make several columns in one pass, so that a photo is decoded once for all of them.

    jobs: in order, each with a range of rows of each target, such as the boxes of a photo and the photo.
        Together they cover every table once, in ascending order. Jobs without rows of missing chunks are not
        read, and `read` gets an empty range for a target without such rows.
    read: read(job) yields (number of the target, Item).
    part: (i, n), the i-th of n runs of consecutive chunks, so that the columns of a part share their photos.
        Default: as in `run_chunks`.

    The other parameters are those of `run_chunks`, and so are the bytes of each column.
    """
    index, count = part or part_of()
    reports = [RunReport() for _ in targets]
    wanted: list[set[int]] = []
    rows = 0
    for target, report in zip(targets, reports, strict=True):
        n = target.writer.n_chunks
        mine = set(range(index * n // count, (index + 1) * n // count))
        wanted.append(mine & set(target.writer.missing()))
        report.skipped = len(mine) - len(wanted[-1])
        rows += sum(hi - lo for lo, hi in (target.writer.bounds(chunk) for chunk in wanted[-1]))

    def needed() -> Iterator[Job]:
        for job in jobs:
            clipped = tuple(
                span if _touches(span, target.writer.spec.chunk_rows, chunks) else (span[0], span[0])
                for span, target, chunks in zip(job, targets, wanted, strict=True)
            )
            if any(lo < hi for lo, hi in clipped):
                yield clipped

    _run(
        targets, needed(), partial(_read_all, read), wanted, reports, workers, processes, rows, progress, unit
    )
    return reports


def _run(
    targets: Sequence[Target],
    jobs: Iterable[Job],
    read: Callable[[Job], list[tuple[int, Item]]],
    wanted: Sequence[set[int]],
    reports: Sequence[RunReport],
    workers: int,
    processes: bool,
    rows: int,
    progress: Progress | None,
    unit: str,
) -> None:
    progress = progress or Silent()
    began = time.perf_counter()
    read_wait = 0.0
    progress.start(", ".join(target.writer.spec.name for target in targets), rows, unit)
    try:
        with stoppable():
            with WriterThread() as writer_thread:
                assemblers = [
                    ChunkAssembler(
                        target.writer,
                        target.map,
                        target.batch,
                        chunks,
                        writer_thread,
                        report,
                        target.independent,
                    )
                    for target, chunks, report in zip(targets, wanted, reports, strict=True)
                ]
                ahead = 2 * max((target.batch for target in targets), default=1)
                stream = read_ahead(read, jobs, workers, processes, _widest, ahead)
                try:
                    while True:
                        waiting = time.perf_counter()
                        found = next(stream, None)
                        read_wait += time.perf_counter() - waiting
                        if found is None:
                            break
                        writer_thread.check()
                        job, items = found
                        for number, (assembler, (lo, hi)) in enumerate(zip(assemblers, job, strict=True)):
                            own = [item for target, item in items if target == number]
                            progress.advance(assembler.add_rows(lo, hi, own))
                    for assembler in assemblers:
                        assembler.finish()
                except UserError:
                    with contextlib.suppress(UserError):  # the first error is the one to report
                        for assembler in assemblers:
                            assembler.map_waiting()
                    raise
                finally:
                    stream.close()
            for target, report in zip(targets, reports, strict=True):
                report.manifest = target.writer.try_finish()
    except (Stop, KeyboardInterrupt) as stop:
        number = stop.number if isinstance(stop, Stop) else 2
        made = ", ".join(
            f"{report.made} chunks of {target.writer.spec.name}"
            for target, report in zip(targets, reports, strict=True)
        )
        name = "Ctrl-C" if number == 2 else "SIGTERM"
        raise Interrupted(
            f"stopped by {name} after making {made}; every chunk on disk is complete, run the same command "
            "again to resume.",
            number,
        ) from stop
    finally:
        progress.finish()
        for report in reports:
            report.seconds, report.read_wait = time.perf_counter() - began, read_wait


def _read_one(read: Callable[[int, int], Iterable[Item]], job: Job) -> list[tuple[int, Item]]:
    return [(0, item) for item in read(*job[0])]


def _read_all(read: Callable[[Job], Iterable[tuple[int, Item]]], job: Job) -> list[tuple[int, Item]]:
    return list(read(job))


def _widest(job: Job) -> int:
    """Return the rows of a job in the target where it has most."""
    return max(hi - lo for lo, hi in job)


def _every_64(lo: int, hi: int) -> list[Range]:
    return [(start, min(start + 64, hi)) for start in range(lo, hi, 64)]


def _touches(span: Range, chunk_rows: int, chunks: set[int]) -> bool:
    lo, hi = span
    return lo < hi and any(chunk in chunks for chunk in range(lo // chunk_rows, -(-hi // chunk_rows)))
