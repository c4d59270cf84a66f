"""Make units: read their jobs ahead, map them, write their chunks. The three steps overlap."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner.chunk_assembler import ChunkAssembler
from cckt.cache_builder.runner.plan import Job, Plan
from cckt.cache_builder.runner.read_ahead import read_ahead, reading_pool
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.runner.writer_thread import WriterThread


class UnitSource(Protocol):
    """Where a maker gets its units: claims, a fixed share, or a driver that assigns them."""

    def next(self) -> int | None:
        """Return the next unit to make; None if there is none at the moment. Never waits."""

    def take(self, unit: int) -> bool:
        """Return whether to make `unit` now too, because a unit in hand shares a photo with it."""

    def lacking(self, unit: int) -> list[list[int]]:
        """Return the missing chunks of a unit that was given out, for each target."""

    def done(self, unit: int) -> None:
        """Note that all chunks of a unit are written. Called in the writer thread."""

    def wait(self) -> bool:
        """Wait, with no unit in hand, until `next` has one; return False at the end of the work."""


def make_units(plan: Plan, source: UnitSource, reports: Sequence[RunReport]) -> None:
    """Make the units of a source until it ends, and count them in the reports, one for each target.

    When the source has no unit at the moment, the chunks in hand are finished, also those that would wait for
    the rows of further ones to fill a batch.
    """
    began, read_wait = time.perf_counter(), 0.0
    hand = _Hand(plan, source)
    try:
        with reading_pool(plan.workers, plan.processes) as pool, WriterThread(hand.written) as writer_thread:
            assemblers = [
                ChunkAssembler(
                    target.writer,
                    target.map,
                    target.batch,
                    wanted,
                    writer_thread,
                    report,
                    number,
                    target.independent,
                )
                for number, (target, wanted, report) in enumerate(
                    zip(plan.targets, hand.wanted, reports, strict=True)
                )
            ]
            ahead = 2 * max((target.batch for target in plan.targets), default=1)
            try:
                while True:
                    stream = read_ahead(plan.read, hand, plan.workers, pool, _widest, ahead)
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
                            plan.progress.advance(assembler.add_rows(lo, hi, own))
                    for assembler in assemblers:
                        assembler.finish()
                    writer_thread.flush()
                    if not source.wait():
                        break
            except UserError:
                with contextlib.suppress(UserError):  # the first error is the one to report
                    for assembler in assemblers:
                        assembler.keep_complete()
                raise
    finally:
        for report in reports:
            report.seconds, report.read_wait = time.perf_counter() - began, read_wait


class _Hand:
    """The units in hand, as an iterator over their jobs; it yields None while the source has no unit."""

    def __init__(self, plan: Plan, source: UnitSource) -> None:
        self.wanted: list[set[int]] = [set() for _ in plan.targets]
        self._plan, self._source = plan, source
        self._jobs: Iterator[Job] = iter(())
        self._unwritten: dict[int, set[tuple[int, int]]] = {}
        self._unit_of: dict[tuple[int, int], int] = {}

    def __iter__(self) -> _Hand:
        return self

    def __next__(self) -> Job | None:
        while True:
            job = next(self._jobs, None)
            if job is not None:
                return job
            unit = self._source.next()
            if unit is None:
                return None
            self._add(unit)
            self._jobs = self._plan.units.jobs(unit, self.wanted, self._take)

    def written(self, target: int, chunk: int) -> None:
        """Note that a chunk is written; report its unit if it was the last one."""
        unit = self._unit_of.pop((target, chunk))
        self.wanted[target].discard(chunk)
        left = self._unwritten[unit]
        left.discard((target, chunk))
        if not left:
            del self._unwritten[unit]
            self._source.done(unit)

    def _take(self, unit: int) -> bool:
        if not self._source.take(unit):
            return False
        self._add(unit)
        return True

    def _add(self, unit: int) -> None:
        chunks = self._source.lacking(unit)
        pairs = {(target, chunk) for target, found in enumerate(chunks) for chunk in found}
        assert pairs, f"expected missing chunks in unit {unit}, found none"
        self._unwritten[unit] = pairs
        self._unit_of.update(dict.fromkeys(pairs, unit))
        for target, chunk in pairs:
            self.wanted[target].add(chunk)


def _widest(job: Job) -> int:
    """Return the rows of a job in the target where it has most."""
    return max(hi - lo for lo, hi in job)
