"""What the command line shows: progress, tables, figures and errors. Nothing else prints."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from cckt.cache_builder.base.atomic_files import plain, write_bytes
from cckt.cache_builder.base.errors import UserError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_PLAIN_EVERY_S = 10.0  # between lines of a stage when the output is no terminal


class _Bars(Bars):
    """Bars under a table of figures, once there are any."""

    shown: Mapping[str, Mapping[str, float | str]] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table, then the bars."""
        if any(self.shown.values()):
            grid = Table.grid(padding=(0, 2))
            for row, figures in self.shown.items():
                cells = [Text.assemble((f"{name} ", "dim"), _short(value)) for name, value in figures.items()]
                if cells:
                    grid.add_row(Text(f"  {row}", style="bold"), *cells)
            yield grid
        yield from super().get_renderables()


class TerminalProgress:
    """A `Progress` on stderr: bars with rate and time left, or plain lines when it is no terminal."""

    def __init__(self) -> None:
        self._bars: _Bars | None = None
        self._label, self._unit, self._total, self._done = "", "", 0, 0
        self._since = self._last_line = 0.0
        self._figures = ""
        self._shown: Mapping[str, Mapping[str, float | str]] = {}

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a stage; one that was running is over."""
        self.finish()
        self._label, self._unit, self._total, self._done = label, unit, total, 0
        self._since = self._last_line = time.monotonic()
        self._figures, self._shown = "", {}
        if err.is_terminal:
            self._bars = _Bars(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"), console=err, transient=True,
            )  # fmt: skip
            self._bars.start()
            self._bars.add_task(label, total=total or None, rate="", figures="")

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """`n` more units are done."""
        self._done += n
        if figures:
            self._figures = _named(figures)
        if self._bars is not None:
            task = self._bars.task_ids[0]
            self._bars.update(task, completed=self._done, rate=self._rate(), figures=self._figures)
        elif time.monotonic() - self._last_line > _PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            left = (self._total - self._done) * (self._last_line - self._since) / max(self._done, 1)
            line = (
                f"  {self._label}: {self._done}/{self._total} {self._unit}, {self._rate()}, {left:.0f} s left"
            )
            err.print(f"{line}  {self._figures}".rstrip(), markup=False)
            rows = [f"{row}: {_named(figures)}" for row, figures in self._shown.items() if figures]
            if rows:
                err.print(f"    {'; '.join(rows)}", markup=False)
            self._shown = {}

    def show(self, figures: Mapping[str, Mapping[str, float | str]]) -> None:
        """A table over the bar; without a terminal, a second line under the next one."""
        self._shown = figures
        if self._bars is not None:
            self._bars.shown = figures

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
        if self._done:
            line = f"  {self._label}: {self._done} {self._unit} in {seconds:.1f} s, {self._rate()}"
            err.print(f"{line}  {self._figures}".rstrip(), markup=False)
        self._label = ""

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._since, 1e-9)
        if self._done and seconds > 2 * self._done:
            return f"{seconds / self._done:.1f} s each"
        return f"{self._done / seconds:.1f} {self._unit}/s"


class Answer:
    """What a verb has to say: lines and tables on stdout, and its figures as JSON where they are asked for.

    json: a file, "-" for stdout (then lines and tables go to stderr), or None. Of several ranks only the
    first one speaks.
    """

    def __init__(self, json: str | None = None) -> None:
        self._json = json
        self._page = err if json == "-" else out
        self._mute = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"

    def say(self, *lines: str) -> None:
        """Lines of text."""
        for line in () if self._mute else lines:
            self._page.print(line, markup=False)

    def heading(self, line: str) -> None:
        """A line that begins something."""
        if not self._mute:
            self._page.print(Text(line, style="bold"))

    def finding(self, level: str, subject: str, message: str) -> None:
        """What a doctor saw: good, warn or bad."""
        mark, style = {"good": ("✓", "green"), "warn": ("!", "yellow"), "bad": ("✗", "bold red")}[level]
        if not self._mute:
            self._page.print(Text.assemble((f"{mark} ", style), (f"{subject}: ", "bold"), message))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table: the first column is text, the others figures; None is a dash."""
        grid = Table(title=title or None, title_justify="left", title_style="bold")
        for at, column in enumerate(columns):
            grid.add_column(column, justify="left" if at == 0 else "right", overflow="fold")
        for row in rows:
            grid.add_row(*(Text(_short(cell)) for cell in row))
        if not self._mute:
            self._page.print(grid)

    def figures(self, figures: Mapping[str, Any]) -> None:
        """The figures as JSON. Raises UserError where the file cannot be written."""
        if self._json is None or self._mute:
            return
        text = json.dumps(plain(figures), indent=1, allow_nan=False, default=str) + "\n"
        if self._json == "-":
            sys.stdout.write(text)
            return
        path = Path(self._json)
        try:
            write_bytes(path, text.encode())
        except OSError as error:
            raise UserError(
                f"--json {path}: could not be written ({error.strerror}); name another file."
            ) from None


def complain(sentence: str) -> None:
    """Say on stderr why nothing came of it."""
    err.print(Text.assemble(("cckt: ", "bold red"), sentence))


def _named(figures: Mapping[str, float | str]) -> str:
    return "  ".join(f"{name} {_short(value)}" for name, value in figures.items())


def _short(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.2g}"
