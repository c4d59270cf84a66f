"""Progress, lines, tables, figures and errors on the terminal."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest
from rich.console import Console

from cckt import __version__
from cckt.cache_builder.base.errors import UserError
from cckt.commands import console
from cckt.commands.console import Answer, TerminalProgress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_an_empty_stage_prints_nothing(capsys: Capture) -> None:
    progress = TerminalProgress()
    progress.finish()
    progress.start("rendering", 0, "photos")
    progress.finish()
    assert capsys.readouterr() == ("", "")


def test_lines_without_a_terminal_have_rate_and_time_left(capsys: Capture, clock: list[float]) -> None:
    progress = TerminalProgress()
    progress.start("training", 40, "steps")
    clock[0] += 5
    progress.advance(10, loss=2.0)
    assert capsys.readouterr().err == "", "expected no line after five seconds"
    clock[0] += 6
    progress.advance(10, loss=1.23456)
    assert capsys.readouterr().err == "  training: 20/40 steps, 1.8 steps/s, 11 s left  loss 1.235\n"
    progress.note("photo 7 is broken")
    progress.advance(20)
    progress.finish()
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "  photo 7 is broken",
        "  training: 40 steps in 11.0 s, 3.6 steps/s  loss 1.235",
    ]
    assert out == "", "expected progress on stderr only"


TABLE = {"losses": {"total": 1.5, "class": 0.25}, "step": {"seconds": 0.5, "data": "2%"}, "trouble": {}}


def test_a_table_is_a_second_line_without_a_terminal(capsys: Capture, clock: list[float]) -> None:
    progress = TerminalProgress()
    progress.start("training", 40, "steps")
    progress.show({"losses": {"total": 99.0}})
    progress.show(TABLE)
    assert capsys.readouterr().err == ""
    clock[0] += 11
    progress.advance(10)
    _, table = capsys.readouterr().err.splitlines()
    assert table == "    losses: total 1.500  class 0.250; step: seconds 0.500  data 2%"
    clock[0] += 11
    progress.advance(10)
    assert len(capsys.readouterr().err.splitlines()) == 1, "expected the table only once"


def test_a_terminal_shows_the_table_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=page, force_terminal=True, width=100, highlight=False))
    progress = TerminalProgress()
    progress.start("training", 3, "steps")
    progress.show(TABLE)
    progress.advance(1)
    assert progress._bars is not None
    progress._bars.refresh()
    progress.finish()
    text = page.getvalue()
    for figure in ("losses", "1.500", "0.250", "2%"):
        assert figure in text
    assert "trouble" not in text


def test_slow_work_is_shown_in_seconds_per_unit(capsys: Capture, clock: list[float]) -> None:
    progress = TerminalProgress()
    progress.start("training", 4, "steps")
    clock[0] += 30
    progress.advance()
    assert "1/4 steps, 30.0 s each, 90 s left" in capsys.readouterr().err


def test_a_new_stage_finishes_the_one_before(capsys: Capture, clock: list[float]) -> None:
    progress = TerminalProgress()
    progress.start("one", 2, "things")
    progress.advance(2)
    clock[0] += 1
    progress.start("two", 2, "things")
    assert capsys.readouterr().err == "  one: 2 things in 1.0 s, 2.0 things/s\n"


def test_bars_on_a_terminal_leave_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=page, force_terminal=True, width=100, highlight=False))
    progress = TerminalProgress()
    progress.start("rendering", 3, "photos")
    progress.advance(1, size="big")
    progress.note("[a] photo with brackets")
    progress.advance(2)
    progress.finish()
    text = page.getvalue()
    assert "3/3" in text
    assert "[a] photo with brackets" in text
    assert "  rendering: 3 photos in" in text.splitlines()[-1]


def test_lines_go_to_stdout_and_figures_to_the_file(tmp_path: Path, capsys: Capture) -> None:
    answer = Answer(str(tmp_path / "figures.json"))
    answer.lines("a [bold] claim", "another")
    answer.table(
        "found", ["what", "value"], [["ap", 0.12345], ["none", None], ["nan", float("nan")], ["n", 7]]
    )
    answer.figures({"ap": float("nan"), "where": tmp_path, "rows": (1, 2.5), "yes": True})
    out, err = capsys.readouterr()
    assert out.startswith("a [bold] claim\nanother\n")
    assert "0.123" in out
    assert out.count("–") == 2
    assert err == ""
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written.pop("cckt") == __version__
    assert written == {"ap": None, "where": str(tmp_path), "rows": [1, 2.5], "yes": True}


def test_figures_on_stdout_send_lines_to_stderr(capsys: Capture) -> None:
    answer = Answer("-")
    answer.lines("a line")
    answer.figures({})
    out, err = capsys.readouterr()
    assert json.loads(out) == {}
    assert err == "a line\n"


def test_figures_that_cannot_be_written_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--json .*none/figures\.json: could not be written"):
        Answer(str(tmp_path / "none" / "figures.json")).figures({"a": 1})
    assert not list(tmp_path.iterdir())


def test_only_rank_0_prints(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("RANK", "1")
    Answer("-").lines("a line")
    Answer("-").figures({})
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    Answer().lines("a line")
    assert capsys.readouterr().out == "a line\n"


def test_an_error_is_one_line_of_any_length(capsys: Capture) -> None:
    console.show_error("much " * 100)
    err = capsys.readouterr().err
    assert err == "cckt: " + "much " * 100 + "\n"


def test_control_characters_in_names_do_not_reach_the_terminal(capsys: Capture, clock: list[float]) -> None:
    bad, shown = "cup\x1b[2J\x9b\u202e\udcff", r"cup\x1b[2J\x9b\u202e\udcff"
    answer = Answer()
    answer.lines(bad)
    answer.heading(bad)
    answer.finding("good", bad, bad)
    answer.table(bad, ["name", "n"], [[bad, 1]])
    console.show_error(bad)
    progress = TerminalProgress()
    progress.start(bad, 4, "photos")
    progress.show({bad: {bad: bad}})
    progress.note(bad)
    clock[0] += 30
    progress.advance(1, **{bad: bad})
    progress.finish()
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set("\x1b\x9b\u202e\udcff") & set(text)
    assert out.count(shown) == 6
    assert err.count(shown) >= 8
    assert console.escaped("two\nlines\tof [b]text[/b] ★") == "two\nlines\tof [b]text[/b] ★"


def test_figures_go_through_a_device_and_leave_it(capsys: Capture) -> None:
    Answer(os.devnull).figures({"a": 1})
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_reader_that_is_gone_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Gone())
    with pytest.raises(console.OutputClosed):
        Answer("-").figures({})
    monkeypatch.setattr(console, "out", console._Terminal())
    with pytest.raises(console.OutputClosed):
        Answer().lines("a line")
