"""What is shown while long work runs, and how figures are written."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cckt.cache_builder.base.errors import UserError
from cckt.commands import console
from cckt.commands.console import Answer, TerminalProgress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_of_nothing_says_nothing(capsys: Capture) -> None:
    progress = TerminalProgress()
    progress.finish()
    progress.start("rendering", 0, "photos")
    progress.finish()
    assert capsys.readouterr() == ("", "")


def test_plain_lines_come_now_and_then_with_rate_and_time_left(capsys: Capture, clock: list[float]) -> None:
    progress = TerminalProgress()
    progress.start("training", 40, "steps")
    clock[0] += 5
    progress.advance(10, loss=2.0)
    assert capsys.readouterr().err == "", "five seconds are too soon for a line"
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
    assert out == "", "progress is no answer"


TABLE = {"losses": {"total": 1.5, "class": 0.25}, "step": {"seconds": 0.5, "data": "2%"}, "trouble": {}}


def test_a_table_is_a_line_under_the_next_plain_one(capsys: Capture, clock: list[float]) -> None:
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
    assert len(capsys.readouterr().err.splitlines()) == 1, "it was shown"


def test_a_terminal_has_the_table_over_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_slow_work_is_told_in_seconds_each(capsys: Capture, clock: list[float]) -> None:
    progress = TerminalProgress()
    progress.start("training", 4, "steps")
    clock[0] += 30
    progress.advance()
    assert "1/4 steps, 30.0 s each, 90 s left" in capsys.readouterr().err


def test_a_new_stage_ends_the_one_before(capsys: Capture, clock: list[float]) -> None:
    progress = TerminalProgress()
    progress.start("one", 2, "things")
    progress.advance(2)
    clock[0] += 1
    progress.start("two", 2, "things")
    assert capsys.readouterr().err == "  one: 2 things in 1.0 s, 2.0 things/s\n"


def test_a_terminal_gets_bars_that_leave_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_answer_goes_to_stdout_and_figures_where_asked(tmp_path: Path, capsys: Capture) -> None:
    answer = Answer(str(tmp_path / "figures.json"))
    answer.say("a [bold] claim", "another")
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
    assert written == {"ap": None, "where": str(tmp_path), "rows": [1, 2.5], "yes": True}


def test_figures_on_stdout_are_alone_there(capsys: Capture) -> None:
    answer = Answer("-")
    answer.say("a line")
    answer.figures({})
    out, err = capsys.readouterr()
    assert json.loads(out) == {}
    assert err == "a line\n"


def test_figures_that_cannot_be_written_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--json .*none/figures\.json: could not be written"):
        Answer(str(tmp_path / "none" / "figures.json")).figures({"a": 1})
    assert not list(tmp_path.iterdir())


def test_of_several_ranks_the_first_alone_speaks(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("RANK", "1")
    Answer("-").say("a line")
    Answer("-").figures({})
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    Answer().say("a line")
    assert capsys.readouterr().out == "a line\n"


def test_a_complaint_is_one_line_whatever_its_length(capsys: Capture) -> None:
    console.complain("much " * 100)
    err = capsys.readouterr().err
    assert err == "cckt: " + "much " * 100 + "\n"
