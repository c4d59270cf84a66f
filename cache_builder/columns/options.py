"""How a column is made, whatever it holds: the options that the makers of columns share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from cckt.cache_builder.base.constants import BATCH, CHUNK_ROWS, PRECISION, WORKERS_LIMIT
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.growth.begin import Growth, begin_column
from cckt.cache_builder.columns.views import BoxTable
from cckt.cache_builder.store import ColumnSpec
from cckt.cache_builder.teacher.clip import Teacher, load_teacher

MOST_WORKERS = 8
"""Default number of workers that decode, on a machine with more cores."""


class Options(TypedDict, total=False):
    """The fields of `Making` as keyword arguments."""

    batch: int
    workers: int | None
    processes: bool
    device: str
    precision: str
    strict: bool
    part: tuple[int, int] | None
    chunk_rows: int
    overwrite: bool
    out: Path | str | None
    progress: Progress | None
    reuse: str
    reuse_from: Path | str | None
    held: bool


@dataclass(frozen=True)
class Making:
    """How columns of image embeddings are made. Raises UserError for numbers out of range."""

    batch: int = BATCH
    """Images that the teacher encodes together."""
    workers: int | None = None
    """Threads that decode, or with `processes` as many processes; None: one for each core, at most 8."""
    processes: bool = False
    """Decode in processes instead of threads."""
    device: str = "auto"
    """Device of a teacher that is given by name; see `load_teacher`."""
    precision: str = PRECISION
    """Precision of a teacher that is given by name."""
    strict: bool = False
    """Stop at a photo that cannot be read, instead of leaving its rows invalid with a note."""
    part: tuple[int, int] | None = None
    """(i, n), the i-th of n makers that share the work; `ExactPart`: its share only; see `run_chunks`."""
    chunk_rows: int = CHUNK_ROWS
    """Rows of a chunk."""
    overwrite: bool = False
    """Replace another column of that name, or make the same one again."""
    out: Path | str | None = None
    """Place of the column, if not the data set's folder: a folder or a URL (s3://, gs://, memory://)."""
    progress: Progress | None = None
    reuse: str = "same"
    """Which rows of an older column are copied, one of `growth.begin.REUSE`."""
    reuse_from: Path | str | None = None
    """Data set with the older column; None: the place of the column itself."""
    held: bool = False
    """Leave a column that replaces an older one in `.grow/` when it is finished, for `finish_all`."""

    def __post_init__(self) -> None:
        check_numbers(self.batch, self.workers, self.part)

    @property
    def reporter(self) -> Progress:
        """The progress that reports go to."""
        return self.progress or Silent()

    @property
    def reading(self) -> dict[str, Any]:
        """The keyword arguments of the runner."""
        return {
            "workers": check_numbers(self.batch, self.workers, self.part),
            "processes": self.processes,
            "part": self.part,
            "progress": self.reporter,
        }

    def begin(
        self,
        data: Path,
        spec: ColumnSpec,
        table: BoxTable,
        *,
        copies: bool = True,
        changing: tuple[str, ...] = (),
    ) -> Growth:
        """Begin or resume a column; see `begin_column`."""
        return begin_column(
            data,
            self.place(data),
            spec,
            table,
            overwrite=self.overwrite,
            reuse=self.reuse,
            source=self.reuse_from,
            copies=copies,
            changing=changing,
            held=self.held,
        )

    def place(self, data: Path) -> Path | str:
        """Return the folder or URL of the columns of a data set."""
        return place(data, self.out)

    def teacher(self, teacher: str | Teacher) -> Teacher:
        """Return a loaded teacher, from its name or as given."""
        return as_teacher(teacher, self.device, self.precision)


def place(data: Path, out: Path | str | None) -> Path | str:
    """Return the folder or URL of the columns of a data set: `out`, or its own folder."""
    return data if out is None else out


def as_teacher(teacher: str | Teacher, device: str, precision: str) -> Teacher:
    """Return a loaded teacher, from its name or as given."""
    if isinstance(teacher, Teacher):
        return teacher
    return load_teacher(teacher, device=device, precision=precision)


def check_numbers(batch: int, workers: int | None, part: tuple[int, int] | None) -> int:
    """Return the number of workers that decode; UserError for numbers out of range.

    workers: None is one for each core, at most 8.
    """
    if batch < 1:
        raise UserError(f"--batch is {batch}; give at least 1.")
    if workers is not None and not 0 <= workers <= WORKERS_LIMIT:
        raise UserError(f"--workers is {workers}; give 0 (decode in the main thread) to {WORKERS_LIMIT}.")
    if part is not None and not 0 <= part[0] < part[1]:
        raise UserError(f"--part is {part[0]}/{part[1]}; give I/N with I from 0 to N - 1.")
    return min(MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers
