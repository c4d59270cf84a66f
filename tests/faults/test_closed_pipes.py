"""The reader of the output leaves after any number of writes: every verb ends quietly, as in `| head -1`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer

from cckt import cli
from cckt.commands.console import CLOSED, close_output
from tests.commands.front import World

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pipes as on POSIX")

TOLD = ("Traceback", "internal error", "BrokenPipe", "Exception ignored")


class Pipe(io.TextIOWrapper):
    """The writing end of a pipe whose reader leaves before write number `reads` (from 0)."""

    def __init__(self, reads: int) -> None:
        self._reader, writer = os.pipe()
        self.writes, self._reads = 0, reads
        super().__init__(os.fdopen(writer, "wb"), encoding="utf-8")

    def write(self, text: str) -> int:
        """Write to the pipe, and end its reader if it is time."""
        if self.writes == self._reads:
            self.leave()
        self.writes += 1
        count = super().write(text)
        self.flush()  # each write reaches the pipe, as those that a terminal shows
        return count

    def leave(self) -> None:
        """End the reader."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


@contextlib.contextmanager
def pipe(reads: int) -> Iterator[Pipe]:
    stream = Pipe(reads)
    try:
        yield stream
    finally:
        stream.leave()
        with contextlib.suppress(BrokenPipeError):
            stream.close()


def ended(words: Sequence[object], reads: int, both: bool) -> tuple[int, str, int]:
    """Run a command line as the program does; return exit code, stderr (of its own pipe) and writes.

    both: stderr goes to the same pipe, as in `cckt ... 2>&1 | head`.
    """
    err = io.StringIO()
    with (
        pipe(reads) as out,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out if both else err),
    ):
        code = cli.run([str(word) for word in words])
        return close_output() or code, err.getvalue(), out.writes


def end_anywhere(words: Sequence[object], both: bool, most: int = 6) -> int:
    """Assert that a command line ends quietly wherever its reader leaves; return the number of places."""
    whole, _, writes = ended(words, 10**9, both)
    assert whole in (0, 2), words
    places = (
        range(writes) if writes <= most else sorted({at * (writes - 1) // (most - 1) for at in range(most)})
    )
    for reads in places:
        code, err, _ = ended(words, reads, both)
        assert code == CLOSED, f"{words}, reader gone at write {reads} of {writes}: exit {code}, {err}"
        assert not [word for word in TOLD if word in err], f"{words}, {reads} of {writes}: {err}"
    return len(places)


def groups_and_verbs(group: object = None, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    group = group or typer.main.get_command(cli.app)
    yield names
    for name, command in getattr(group, "commands", {}).items():
        yield from groups_and_verbs(command, (*names, name))


@pytest.mark.parametrize("names", groups_and_verbs(), ids=" ".join)
def test_a_help_text(names: tuple[str, ...]) -> None:
    assert end_anywhere([*names, "--help"], both=False, most=2) == 2


@pytest.mark.parametrize("both", [False, True])
def test_lines_tables_figures_and_findings(world: World, both: bool) -> None:
    for words in (
        ["--version"],
        ["cache", "info", world.held],
        ["cache", "info", world.held, "--json", "-"],
        ["cache", "verify", world.held, "--sample", "0"],
        ["cache", "diff", world.held, world.seen],
        ["doctor", "--data", world.held, "--json", "-"],
    ):
        end_anywhere(words, both)


def test_progress_notes_and_errors(world: World, tmp_path: Path) -> None:
    """All on stderr."""
    end_anywhere(
        ["predict", tmp_path / "none", tmp_path, "--vocabulary", "cup", "--out", tmp_path / "p"], True
    )
    end_anywhere(["cache", "info", tmp_path, "--no-such-option"], True)
    end_anywhere([], True)
    text = [
        "cache",
        "text",
        world.held,
        "--teacher",
        world.teacher,
        "--overwrite",
        "--out",
        tmp_path / "text",
    ]
    assert end_anywhere(text, both=True) > 2
    assert (tmp_path / "text" / "text" / "zarr.json").is_file()
    code, _, _ = ended(text, 10**9, both=True)
    assert code == 0


def test_a_broken_pipe_of_something_else_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*given: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("cckt.detector.inference.input_set.find_photos", broken)
    words = ["predict", tmp_path / "run", tmp_path, "--vocabulary", "cup", "--out", tmp_path / "new"]
    code, err, _ = ended(words, 10**9, both=False)
    assert code == 1
    assert "internal error: RuntimeError: BrokenPipeError" in err
