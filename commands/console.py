"""Progress, tables, figures and errors on the terminal; no other module prints.

Names of concepts and files come from anywhere: control characters in them are escaped before they reach the
terminal.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import select
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from cckt import __version__
from cckt.cache_builder.base.atomic_files import is_stream, plain, write_bytes
from cckt.cache_builder.base.disk_faults import explained_faults, require_room
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.ownership import json_mark, require_ours_or_absent
from cckt.cache_builder.base.untrusted.text import escape

if TYPE_CHECKING:
    from cckt.cache_builder.columns.report import CacheReport


class OutputClosed(Exception):
    """The reader of stdout or stderr is gone, as in `cckt cache info DATA | head -1`; not an error."""


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """Raise OutputClosed and forget what was not written; rich would leave with exit code 1."""
        self._buffer.clear()
        raise OutputClosed


out = _Terminal(highlight=False, soft_wrap=True)
err = _Terminal(stderr=True, highlight=False, soft_wrap=True)
CLOSED = 141
"""Exit code if the reader of the output is gone: 128 + SIGPIPE, as of other programs."""
LINE_SECONDS = 10.0
"""Seconds between two progress lines of a stage if stderr is not a terminal."""

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, change colours or the direction of text, or cannot be encoded."""

FIGURES_MARK = "cckt"
"""Key of the figures in a file, with the version; only files with it are replaced."""
FIGURES_BYTES = 1 << 16
"""Room on the disk for figures."""

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextlib.contextmanager
def quiet_progress(quiet: bool) -> Iterator[None]:
    """Hide progress and stages inside the block if `quiet`; results, notes and errors stay."""
    before = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(before)


class _Bars(Bars):
    """Progress bars below a table of figures, if there are any."""

    shown: Mapping[str, Mapping[str, float | str]] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the table, then the bars."""
        if any(self.shown.values()):
            grid = Table.grid(padding=(0, 2))
            for row, figures in self.shown.items():
                cells = [
                    Text.assemble((f"{escaped(name)} ", "dim"), _short(value))
                    for name, value in figures.items()
                ]
                if cells:
                    grid.add_row(Text(f"  {escaped(row)}", style="bold"), *cells)
            yield grid
        yield from super().get_renderables()


class TerminalProgress:
    """`Progress` on stderr: bars on a terminal, else a line every LINE_SECONDS; only notes if quiet."""

    def __init__(self) -> None:
        self._quiet = _quiet.get()
        self._bars: _Bars | None = None
        self._label, self._unit, self._total, self._done = "", "", 0, 0
        self._since = self._last_line = 0.0
        self._figures = ""
        self._shown: Mapping[str, Mapping[str, float | str]] = {}

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a stage and finish the stage before it."""
        self.finish()
        label = escaped(label)
        self._label, self._unit, self._total, self._done = label, unit, total, 0
        self._since = self._last_line = time.monotonic()
        self._figures, self._shown = "", {}
        if err.is_terminal and not self._quiet:
            self._bars = _Bars(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"), console=err, transient=True,
            )  # fmt: skip
            self._bars.start()
            self._bars.add_task(label, total=total or None, rate="", figures="")

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Count `n` finished units; figures are shown next to the rate."""
        self._done += n
        if figures:
            self._figures = _named(figures)
        if self._bars is not None:
            task = self._bars.task_ids[0]
            self._bars.update(task, completed=self._done, rate=self._rate(), figures=self._figures)
        elif not self._quiet and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            left = (self._total - self._done) * (self._last_line - self._since) / max(self._done, 1)
            line = (
                f"  {self._label}: {self._done}/{self._total} {self._unit}, {self._rate()}, {left:.0f} s left"
            )
            err.print(f"{line}  {self._figures}".rstrip(), markup=False)
            rows = [f"{escaped(row)}: {_named(figures)}" for row, figures in self._shown.items() if figures]
            if rows:
                err.print(f"    {'; '.join(rows)}", markup=False)
            self._shown = {}

    def show(self, figures: Mapping[str, Mapping[str, float | str]]) -> None:
        """Show a table above the bar, or as a second line below the next progress line."""
        self._shown = figures
        if self._bars is not None:
            self._bars.shown = figures

    def note(self, message: str) -> None:
        """Print a line that stays, such as a warning; also if quiet."""
        (self._bars.console if self._bars is not None else err).print(f"  {escaped(message)}", markup=False)

    def finish(self) -> None:
        """End the stage and print its count and rate."""
        if not self._label:
            return
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        seconds = time.monotonic() - self._since
        if self._done and not self._quiet:
            done = counted(self._done, self._unit.removesuffix("s"), self._unit)
            line = f"  {self._label}: {done} in {seconds:.1f} s, {self._rate()}"
            err.print(f"{line}  {self._figures}".rstrip(), markup=False)
        self._label = ""

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._since, 1e-9)
        if self._done and seconds > 2 * self._done:
            return f"{seconds / self._done:.1f} s each"
        return f"{self._done / seconds:.1f} {self._unit}/s"


class Answer:
    """Result of a command: lines and tables on stdout, and figures as JSON.

    json: the file of the figures, "-" for stdout (lines and tables then go to stderr), or None for no JSON.
    Only rank 0 prints and writes.
    """

    def __init__(self, json: str | None = None) -> None:
        self._json = json
        self._page = err if json == "-" else out
        self._mute = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"

    def lines(self, *lines: str) -> None:
        """Print lines of text."""
        for line in () if self._mute else lines:
            self._page.print(escaped(line), markup=False)

    def heading(self, line: str) -> None:
        """Print a heading."""
        if not self._mute:
            self._page.print(Text(escaped(line), style="bold"))

    def stage(self, line: str) -> None:
        """Print the heading of a stage of long work; nothing if quiet."""
        if not _quiet.get():
            self.heading(line)

    def finding(self, level: str, subject: str, message: str) -> None:
        """Print the outcome of a check; level: good, warn or bad."""
        mark, style = {"good": ("✓", "green"), "warn": ("!", "yellow"), "bad": ("✗", "bold red")}[level]
        if not self._mute:
            self._page.print(
                Text.assemble((f"{mark} ", style), (f"{escaped(subject)}: ", "bold"), escaped(message))
            )

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table; the first column is text, the others are figures. None is shown as a dash."""
        grid = Table(title=Text(escaped(title)) if title else None, title_justify="left", title_style="bold")
        for at, column in enumerate(columns):
            grid.add_column(column, justify="left" if at == 0 else "right", overflow="fold")
        for row in rows:
            grid.add_row(*(Text(_short(cell)) for cell in row))
        if not self._mute:
            self._page.print(grid)

    def figures(self, figures: Mapping[str, Any]) -> None:
        """Write the figures as JSON. Raises UserError if the file cannot be written.

        A device, a pipe or /dev/stdout is written to, and never replaced. A file also gets FIGURES_MARK.
        """
        if self._json is None or self._mute:
            return
        path, values = Path(self._json), plain(figures)
        try:
            if self._json != "-" and not is_stream(path):
                values = {FIGURES_MARK: __version__, **values}
            text = json.dumps(values, indent=1, allow_nan=False, default=str) + "\n"
            if self._json == "-":
                sys.stdout.write(text)
                sys.stdout.flush()
                return
            sys.stdout.flush()  # /dev/stdout may be the same file
            write_bytes(path, text.encode())
        except BrokenPipeError:
            raise OutputClosed from None
        except OSError as error:
            raise UserError(
                f"--json {path}: could not be written ({error.strerror}); name another file."
            ) from None


def require_figures_file(path: Path, outputs: Sequence[Path]) -> None:
    """Raise UserError unless `Answer.figures` can write a file; call it before the work.

    outputs: folders that the command makes.
    """
    with explained_faults(path):
        if is_stream(path):
            return
        folder = Path(os.path.abspath(path)).parent
        if folder.is_dir():
            require_room(folder, FIGURES_BYTES)
        elif not any(Path(os.path.abspath(out)) in (folder, *folder.parents) for out in outputs):
            raise UserError(f"--json {path}: its folder does not exist; make it, or name another file.")
        require_ours_or_absent(path, json_mark(FIGURES_MARK), "figures of cckt", option="--json")


def show_reports(json: str | None, *reports: CacheReport) -> None:
    """Show the reports of cached columns, as lines and as JSON; several are keyed by column name."""
    answer = Answer(json)
    for report in reports:
        show_report_lines(answer, report)
    figures = {report.name: report.to_json() for report in reports}
    answer.figures(figures if len(reports) > 1 else reports[0].to_json())


def show_report_lines(answer: Answer, report: CacheReport) -> None:
    """Show the lines of a report without its notes, which were printed as they arose."""
    answer.lines(*(line for line in report.lines() if line not in report.notes))


def show_error(sentence: str) -> None:
    """Print why the command failed, on stderr."""
    err.print(Text.assemble(("cckt: ", "bold red"), escaped(sentence)))


def escaped(text: str) -> str:
    r"""Return a text without control characters: they are shown as \x1b, \u202e and so on."""
    return escape(text, _UNSAFE)


def reader_is_gone() -> bool:
    """Return whether stdout or stderr is a pipe or socket that nobody reads any more.

    True also where the system cannot tell: a broken pipe is then most likely one of the output.
    """
    if not hasattr(select, "poll"):
        return True
    waiting = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream in memory, or a closed one
            waiting.register(stream.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in waiting.poll(0))


def accept_any_text() -> None:
    """Make stdout and stderr write characters that their encoding lacks, such as ✓ in ASCII, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> int:
    """Flush stdout and stderr before the process ends. Return 141 if a reader is gone, else 0."""
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = CLOSED
            # The interpreter flushes again when it ends; it must not fail then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _named(figures: Mapping[str, float | str]) -> str:
    return "  ".join(f"{escaped(name)} {_short(value)}" for name, value in figures.items())


def _short(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, float):
        return escaped(str(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.2g}"
