"""How a column is made, whatever it holds: the options that the makers of columns share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.teacher.clip import Teacher, load_teacher

CHUNK_ROWS = 512
"""Rows a chunk, and with it the work a kill can cost."""


class Options(TypedDict, total=False):
    """The same as keyword arguments: what `cache_crops`, `cache_images` and the passes for several columns
    take beside their own; see `Making` for what each one is.
    """

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


@dataclass(frozen=True)
class Making:
    """How columns of pictures are made. Raises UserError for numbers out of range."""

    batch: int = 256
    """Pictures that the teacher looks at together."""
    workers: int | None = None
    """Threads that decode, or with `processes` as many processes; None: one a core, at most 8."""
    processes: bool = False
    device: str = "auto"
    """Of a teacher that is named and not loaded yet; as `load_teacher` takes it."""
    precision: str = "fp32"
    """Likewise."""
    strict: bool = False
    """Stop at a photo that cannot be read, instead of leaving its rows invalid with a note."""
    part: tuple[int, int] | None = None
    """(i, n), the i-th of n makers; None: torchrun's rank, else all."""
    chunk_rows: int = CHUNK_ROWS
    overwrite: bool = False
    """Replace another column of that name, or make the same one again."""
    out: Path | str | None = None
    """Where the column goes, if not into the data set's folder: a folder or a URL (s3://, gs://, memory://)."""
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check_numbers(self.batch, self.workers, self.part)

    @property
    def readers(self) -> int:
        """Workers that decode."""
        return check_numbers(self.batch, self.workers, self.part)

    @property
    def reporter(self) -> Progress:
        """Who is told."""
        return self.progress or Silent()

    @property
    def reading(self) -> dict[str, Any]:
        """What the runner takes of it."""
        return {
            "workers": self.readers,
            "processes": self.processes,
            "part": self.part,
            "progress": self.reporter,
        }

    def place(self, data: Path) -> Path | str:
        """The folder or URL of the columns of a data set."""
        return place(data, self.out)

    def teacher(self, teacher: str | Teacher) -> Teacher:
        """A loaded teacher, of a name or as given."""
        return as_teacher(teacher, self.device, self.precision)


def place(data: Path, out: Path | str | None) -> Path | str:
    """The folder or URL of the columns of a data set: its own, if no other one is given."""
    return data if out is None else out


def as_teacher(teacher: str | Teacher, device: str, precision: str) -> Teacher:
    """A loaded teacher, of a name or as given."""
    if isinstance(teacher, Teacher):
        return teacher
    return load_teacher(teacher, device=device, precision=precision)


def check_numbers(batch: int, workers: int | None, part: tuple[int, int] | None) -> int:
    """Workers that decode: as asked for, else one a core, at most 8. UserError for numbers out of range."""
    if batch < 1:
        raise UserError(f"--batch is {batch}; give at least 1.")
    if workers is not None and workers < 0:
        raise UserError(f"--workers is {workers}; give 0 (decode in the main thread) or more.")
    if part is not None and not 0 <= part[0] < part[1]:
        raise UserError(f"--part is {part[0]}/{part[1]}; give I/N with I from 0 to N - 1.")
    return min(8, os.cpu_count() or 1) if workers is None else workers
