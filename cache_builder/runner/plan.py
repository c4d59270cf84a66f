"""What a run makes: columns, and how their chunks are divided into units that makers share.

A unit is the work that one maker takes at a time. A run of one column has one unit for each chunk. A run of
several columns in one pass over the photos has units of whole chunks of every column, so that a photo is
decoded once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from cckt.cache_builder.base.constants import BATCH
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.runner.chunk_assembler import Item
from cckt.cache_builder.store import ColumnWriter

Range = tuple[int, int]
Job = tuple[Range, ...]
"""The work of one call of a reader: rows [lo, hi) of each target; lo == hi for a target without rows."""

FEW = 16
"""Units below which the column with most chunks divides the work, although some photos are decoded twice."""


@dataclass(frozen=True)
class Target:
    """One column of a run: its writer, and the mapper from item data to rows. See `run_chunks`."""

    writer: ColumnWriter
    map: Callable[[list[Any]], Any]
    batch: int = BATCH
    independent: bool = False


class Units(Protocol):
    """The division of the chunks of every target into units 0, 1, 2, ..."""

    count: int

    def chunks(self, unit: int) -> Sequence[Sequence[int]]:
        """Return the chunks of a unit, for each target."""

    def share(self, part: tuple[int, int]) -> Sequence[int]:
        """Return the units that the i-th of n makers begins with, ascending."""

    def jobs(self, unit: int, wanted: Sequence[set[int]], take: Callable[[int], bool]) -> Iterator[Job]:
        """Yield the jobs of a unit, with the rows of `wanted` chunks only.

        take(other): whether to make another unit too, one that shares a photo with this one. It adds the
        chunks of that unit to `wanted`.
        """


@dataclass(frozen=True)
class Plan:
    """The work of one run: columns, their division, how jobs are read, and what the user sees."""

    targets: Sequence[Target]
    units: Units
    read: Callable[[Job], list[tuple[int, Item]]]
    workers: int
    processes: bool
    part: tuple[int, int]
    progress: Progress
    unit_name: str

    @property
    def label(self) -> str:
        """The names of the columns."""
        return ", ".join(target.writer.spec.name for target in self.targets)

    @property
    def identity(self) -> str:
        """The names and identities of the columns: equal for the same work on another machine."""
        return "; ".join(f"{one.writer.spec.name} {one.writer.spec.identity}" for one in self.targets)

    def missing(self) -> list[set[int]]:
        """Return the missing chunks of every target; reads the files."""
        return [set(target.writer.missing()) for target in self.targets]

    def unmade(self, missing: Sequence[set[int]], units: Iterable[int] | None = None) -> list[int]:
        """Return those of `units` (default: all) with a missing chunk, in their order."""
        units = range(self.units.count) if units is None else units
        return [unit for unit in units if any(self.lacking(unit, missing))]

    def lacking(self, unit: int, missing: Sequence[set[int]]) -> list[list[int]]:
        """Return the missing chunks of a unit, for each target."""
        pairs = zip(self.units.chunks(unit), missing, strict=True)
        return [[chunk for chunk in chunks if chunk in lost] for chunks, lost in pairs]

    def rows(self, unit: int, missing: Sequence[set[int]]) -> int:
        """Return the number of rows in the missing chunks of a unit."""
        return sum(
            hi - lo
            for target, chunks in zip(self.targets, self.lacking(unit, missing), strict=True)
            for lo, hi in map(target.writer.bounds, chunks)
        )


class ChunkUnits:
    """Units of a run of one column: each chunk is one."""

    def __init__(self, writer: ColumnWriter, spans: Callable[[int, int], Sequence[Range]]) -> None:
        self.count = writer.n_chunks
        self._writer, self._spans = writer, spans

    def chunks(self, unit: int) -> Sequence[Sequence[int]]:
        """See `Units.chunks`."""
        return [[unit]]

    def share(self, part: tuple[int, int]) -> Sequence[int]:
        """See `Units.share`: the chunks with number % n == i."""
        return range(part[0], self.count, part[1])

    def jobs(self, unit: int, wanted: Sequence[set[int]], take: Callable[[int], bool]) -> Iterator[Job]:
        """See `Units.jobs`. Jobs of a chunk end where the chunk ends."""
        return ((span,) for span in self._spans(*self._writer.bounds(unit)))


class PhotoUnits:
    """Units of a run of several columns over the same photos.

    The column with the fewest chunks divides the work, or the one with the most if there would be fewer than
    FEW units. A chunk of another column belongs to the unit in which its first row is.
    """

    def __init__(self, writers: Sequence[ColumnWriter], jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._chunk_rows = [writer.spec.chunk_rows for writer in writers]
        counts = [writer.n_chunks for writer in writers]
        fewest = min(counts, default=0)
        lead = counts.index(fewest if fewest >= FEW else max(counts)) if counts else 0
        self.count = counts[lead] if counts else 0
        starts = np.array([[span[0] for span in job] for job in jobs], np.int64).reshape(-1, len(writers))
        unit_of_job = np.clip(starts[:, lead] // self._chunk_rows[lead], 0, max(self.count - 1, 0))
        self._unit_of: list[list[int]] = []
        self._chunks: list[list[list[int]]] = [[[] for _ in writers] for _ in range(self.count)]
        self._jobs_of = [[len(jobs), -1] for _ in range(self.count)]
        for target, writer in enumerate(writers):
            units = []
            for chunk in range(writer.n_chunks):
                lo, hi = writer.bounds(chunk)
                first, last = np.searchsorted(starts[:, target], [lo, hi - 1], side="right") - 1
                unit = chunk if target == lead else int(unit_of_job[first])
                units.append(unit)
                self._chunks[unit][target].append(chunk)
                begin, end = self._jobs_of[unit]
                self._jobs_of[unit] = [min(begin, int(first)), max(end, int(last))]
            self._unit_of.append(units)

    def chunks(self, unit: int) -> Sequence[Sequence[int]]:
        """See `Units.chunks`."""
        return self._chunks[unit]

    def share(self, part: tuple[int, int]) -> Sequence[int]:
        """See `Units.share`: the i-th of n runs of consecutive units."""
        index, count = part
        return range(index * self.count // count, (index + 1) * self.count // count)

    def jobs(self, unit: int, wanted: Sequence[set[int]], take: Callable[[int], bool]) -> Iterator[Job]:
        """See `Units.jobs`. While the unit's photos are read, neighbours that share one are taken too."""
        decided, mine = {unit}, self._wanted(unit, wanted)
        at, last = self._jobs_of[unit]
        while at <= last:
            job = self._jobs[at]
            for other in sorted(self._touched(job) - decided):
                decided.add(other)
                if other > unit and take(other):
                    mine = [old | new for old, new in zip(mine, self._wanted(other, wanted), strict=True)]
                    last = max(last, self._jobs_of[other][1])
            yield from self._clipped(job, mine)  # a chunk of another unit in hand has its own jobs
            at += 1

    def _wanted(self, unit: int, wanted: Sequence[set[int]]) -> list[set[int]]:
        """The wanted chunks of a unit, for each target."""
        return [set(chunks) & found for chunks, found in zip(self._chunks[unit], wanted, strict=True)]

    def _touched(self, job: Job) -> set[int]:
        """The units of the chunks that hold rows of a job."""
        return {
            units[chunk]
            for (lo, hi), size, units in zip(job, self._chunk_rows, self._unit_of, strict=True)
            if lo < hi
            for chunk in range(lo // size, (hi - 1) // size + 1)
        }

    def _clipped(self, job: Job, wanted: Sequence[set[int]]) -> Iterator[Job]:
        """The job without rows of other chunks; several jobs if rows in the middle are left out."""
        pieces = [
            _pieces(span, size, chunks)
            for span, size, chunks in zip(job, self._chunk_rows, wanted, strict=True)
        ]
        for number in range(max(map(len, pieces), default=0)):
            yield tuple(
                found[number] if number < len(found) else (span[0], span[0])
                for found, span in zip(pieces, job, strict=True)
            )


def _pieces(span: Range, chunk_rows: int, wanted: set[int]) -> list[Range]:
    """The longest ranges of a span whose rows are in wanted chunks."""
    lo, hi = span
    if lo == hi:
        return []
    cuts = [lo, *range((lo // chunk_rows + 1) * chunk_rows, hi, chunk_rows), hi]
    found: list[Range] = []
    for start, stop in pairwise(cuts):
        if start // chunk_rows in wanted:
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((start, stop))
    return found
