"""Make one column, or several in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from cckt.cache_builder.base.constants import BATCH
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.runner.chunk_assembler import Item
from cckt.cache_builder.runner.engines.engine import engine_in_use
from cckt.cache_builder.runner.engines.local import LocalEngine
from cckt.cache_builder.runner.parts import part_of
from cckt.cache_builder.runner.plan import ChunkUnits, Job, PhotoUnits, Plan, Range, Target
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.store import ColumnWriter


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
    progress: Progress | None = None,
    unit: str = "rows",
) -> RunReport:
    """Make the missing chunks of a column together with the other makers of it; finish the column.

    read: read(lo, hi) yields one `Item` for each row of [lo, hi) in any order; rows without an item are
        invalid. Runs in one of `workers` threads (0: in this thread), or with `processes` in spawned
        processes, which pickle it and its items. Raises UserError to stop the run.
    map: takes a list of at most `batch` item data and returns (n, width) float in the same order, as numpy or
        anything that numpy converts. Runs in the calling thread. It may return a function without arguments
        that returns the rows: that function is called after the next batch has been started, so that an
        asynchronous device never waits for the host.
    batch: rows that are mapped together: valid rows of one chunk in row order. It belongs in the recipe.
    independent: a row does not depend on the other rows of its batch, so that a batch may hold rows of
        several chunks; see `ChunkAssembler`.
    spans: spans(lo, hi) divides a chunk into the ranges that `read` is called with, such as the boxes of one
        photo, so that a photo is decoded once. Default: every 64 rows.
    part: (i, n), the i-th of n makers: it claims the chunks with number % n == i first, then any others. An
        `ExactPart` makes only these. Default: torchrun's RANK of WORLD_SIZE, else (0, 1).

    A maker claims chunks as it goes, and returns when no chunk is missing: it waits for chunks that other
    makers have in hand, and makes those of makers that died or are very slow (see `ClaimedUnits`). The engine
    of an enclosing `using` takes the place of this process.

    After a kill the same call resumes with the missing chunks, for any number of processes; the bytes are the
    same. Raises Interrupted (a UserError) on Ctrl-C and SIGTERM, and the errors of `read`, `map` and the
    store.
    """
    plan = Plan(
        [Target(writer, map, batch, independent)],
        ChunkUnits(writer, spans or _every_64),
        partial(_read_one, read),
        workers,
        processes,
        part or part_of(),
        progress or Silent(),
        unit,
    )
    return (engine_in_use() or LocalEngine()).run(plan)[0]


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
        read, and `read` gets only the rows of chunks that this process makes.
    read: read(job) yields (number of the target, Item).
    part: (i, n), the i-th of n makers: it claims the i-th of n runs of consecutive chunks first, then others.
        An `ExactPart` makes only these. Default: as in `run_chunks`.

    Makers share the work as in `run_chunks`, in units of `PhotoUnits`. The other parameters are those of
    `run_chunks`, and so are the bytes of each column.
    """
    plan = Plan(
        targets,
        PhotoUnits([target.writer for target in targets], jobs),
        partial(_read_all, read),
        workers,
        processes,
        part or part_of(),
        progress or Silent(),
        unit,
    )
    return (engine_in_use() or LocalEngine()).run(plan)


def _read_one(read: Callable[[int, int], Iterable[Item]], job: Job) -> list[tuple[int, Item]]:
    return [(0, item) for item in read(*job[0])]


def _read_all(read: Callable[[Job], Iterable[tuple[int, Item]]], job: Job) -> list[tuple[int, Item]]:
    return list(read(job))


def _every_64(lo: int, hi: int) -> list[Range]:
    return [(start, min(start + 64, hi)) for start in range(lo, hi, 64)]
