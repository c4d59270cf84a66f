"""Running one column, or several from one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.runner.batch_loop import Assembly, Item, RunReport, WriterThread
from cckt.cache_builder.runner.parts import chunks_to_make, part_of, share
from cckt.cache_builder.runner.readahead import read_ahead
from cckt.cache_builder.runner.signals import Interrupted, Stop, stoppable
from cckt.cache_builder.store import ColumnWriter

Range = tuple[int, int]
Job = tuple[Range, ...]
"""What one call of a reader reads: rows [lo, hi) of each target; lo == hi where it need not."""


@dataclass(frozen=True)
class Target:
    """One column of a run: where it goes, and how item data become rows."""

    writer: ColumnWriter
    map: Callable[[list[Any]], Any]
    """List of at most `batch` item data -> (n, width) float, anything numpy takes; or a function that waits
    for it.
    """
    batch: int = 256


def run_chunks(
    writer: ColumnWriter,
    read: Callable[[int, int], Iterable[Item]],
    map: Callable[[list[Any]], Any],
    *,
    batch: int = 256,
    spans: Callable[[int, int], Sequence[Range]] | None = None,
    workers: int = 2,
    processes: bool = False,
    part: tuple[int, int] | None = None,
    assist: bool | None = None,
    progress: Progress | None = None,
    unit: str = "rows",
) -> RunReport:
    """Make the missing chunks that this part is dealt; finish the column when none is left.

    read(lo, hi) yields one `Item` for each row of [lo, hi) it can, in any order; a row it does not yield is
    invalid. It runs in one of `workers` threads (0: in this one), or with `processes` in spawned processes
    (then it and its items are pickled); it raises UserError to stop the run.
    map(list of at most `batch` item data) gives (n, width) float in the same order, numpy or anything numpy
    takes. It runs in the calling thread. It may return a function of no arguments that gives them: that is
    called after the next batch is launched, so that an asynchronous device never waits for the host.
    batch: valid rows of a chunk in row order, cut every `batch`; they never cross a chunk. It belongs
    in the recipe.
    spans(lo, hi) cuts a chunk into the ranges `read` is called with (crops: where photos begin, so that each
    is decoded once); default: every 64 rows.
    part: (i, n), chunk numbers that leave i when divided by n; None: torchrun's RANK of WORLD_SIZE, else all.
    assist: when the own share is done, make what other parts have not come to; None: only where `part` is
    None.

    Kill it anywhere, at any number of makers: the same call goes on with what is missing, and the bytes are
    the same. Raises Interrupted (a UserError) on Ctrl-C and SIGTERM, and what `read`, `map` and the store
    raise.
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

    target = Target(writer, map, batch)
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
    """Make several columns from one pass: a photo is decoded once for all that need it.

    jobs: in order, each with a range of rows for each target (crops: the boxes of some photos; images: those
    photos); together they cover every table once, ascending. Only jobs with rows of missing chunks are read,
    and ranges that nobody needs come to `read` empty. read(job) yields (number of the target, Item).
    part: (i, n) is dealt consecutive chunks, so that the columns of a part come from the same photos; None:
    as in `run_chunks`. Everything else is as there; the bytes are those of `run_chunks` column by column.
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
            with WriterThread() as sink:
                assemblies = [
                    Assembly(target.writer, target.map, target.batch, chunks, sink, report)
                    for target, chunks, report in zip(targets, wanted, reports, strict=True)
                ]
                ahead = 2 * max((target.batch for target in targets), default=1)
                stream = read_ahead(read, jobs, workers, processes, _widest, ahead)
                try:
                    while True:
                        mark = time.perf_counter()
                        found = next(stream, None)
                        read_wait += time.perf_counter() - mark
                        if found is None:
                            break
                        sink.check()
                        job, items = found
                        for number, (assembly, (lo, hi)) in enumerate(zip(assemblies, job, strict=True)):
                            fed = assembly.feed(lo, hi, [item for target, item in items if target == number])
                            progress.advance(fed)
                    for assembly in assemblies:
                        assembly.drain()
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
            f"Stopped by {name} after making {made}: nothing is torn, run the same command again to go on.",
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
    """Rows of a job, in the target where it has most."""
    return max(hi - lo for lo, hi in job)


def _every_64(lo: int, hi: int) -> list[Range]:
    return [(start, min(start + 64, hi)) for start in range(lo, hi, 64)]


def _touches(span: Range, chunk_rows: int, chunks: set[int]) -> bool:
    lo, hi = span
    return lo < hi and any(chunk in chunks for chunk in range(lo // chunk_rows, -(-hi // chunk_rows)))
