"""What the command line shows: progress, tables and errors. Beside `cli.py`, the only file that prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from cache_builder.errors import UserError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_PLAIN_EVERY_S = 10.0  # between lines of a stage when the output is no terminal


class TerminalProgress:
    """A `Progress` on stderr: bars with rate and time left, or plain lines when it is no terminal."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._label, self._unit, self._total, self._done = "", "", 0, 0
        self._since = self._last_line = 0.0
        self._figures = ""

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a stage; one that was running is over."""
        self.finish()
        self._label, self._unit, self._total, self._done = label, unit, total, 0
        self._since = self._last_line = time.monotonic()
        self._figures = ""
        if err.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}", justify="left"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"), console=err, transient=True,
            )  # fmt: skip
            self._bars.start()
            self._bars.add_task(label, total=total or None, rate="", figures="")

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """`n` more units are done."""
        self._done += n
        if figures:
            self._figures = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self._bars is not None:
            task = self._bars.task_ids[0]
            self._bars.update(task, completed=self._done, rate=self._rate(), figures=self._figures)
        elif time.monotonic() - self._last_line > _PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            left = (self._total - self._done) * (self._last_line - self._since) / max(self._done, 1)
            err.print(
                f"{self._label}: {self._done}/{self._total} {self._unit}, {self._rate()}, "
                f"{left:.0f} s left  {self._figures}".rstrip()
            )

    def note(self, message: str) -> None:
        """A line worth keeping."""
        (self._bars.console if self._bars is not None else err).print(f"  {message}", markup=False)

    def finish(self) -> None:
        """Close the stage with one line: how much, how fast."""
        if not self._label:
            return
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        seconds = time.monotonic() - self._since
        err.print(f"{self._label}: {self._done} {self._unit} in {seconds:.1f} s, {self._rate()}", markup=False)
        self._label = ""

    def _rate(self) -> str:
        return f"{self._done / max(time.monotonic() - self._since, 1e-9):.1f} {self._unit}/s"


def say(*lines: str) -> None:
    """Print lines of an answer to stdout."""
    for line in lines:
        out.print(line, markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: the first column is text, the others figures; None is a dash."""
    grid = Table(title=title or None, title_justify="left", title_style="bold")
    for at, column in enumerate(columns):
        grid.add_column(column, justify="left" if at == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*("-" if cell is None else cell if isinstance(cell, str) else _short(cell) for cell in row))
    out.print(grid)


def write_json(target: str | None, figures: dict[str, Any]) -> None:
    """The figures of a verb to a file, or to stdout for "-"; nothing for None."""
    if target is None:
        return
    text = json.dumps(figures, indent=1, default=str)
    if target == "-":
        sys.stdout.write(text + "\n")
        return
    path = Path(target)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json {path}: could not be written ({error.strerror}); name another file.") from None


def _short(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return "-" if value != value else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
