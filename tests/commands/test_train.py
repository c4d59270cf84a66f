"""`cckt train`: runs that are left and gone on with, by their name alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cckt.detector.config.config import save_config
from tests.commands.front import Said, cckt
from tests.detector.tiny import make_data, tiny_config

Say = Callable[..., Said]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return lambda *words: cckt(capsys, *words)


def begin(folder: Path, data: Path, run: Path) -> list[object]:
    save_config(tiny_config("prior.source=none"), folder / "tiny.toml")
    words = ["--train", data, "--val", data, "--out", run, "--config", folder / "tiny.toml"]
    return ["train", *words, "--stop-after", "2", "--json", "-"]


def test_a_run_is_left_and_gone_on_with_by_its_name(say: Say, tmp_path: Path) -> None:
    data, run, moved = make_data(tmp_path / "data"), tmp_path / "run", tmp_path / "moved"
    said = say(*begin(tmp_path, data, run))
    assert said.code == 0, said.err
    figures = json.loads(said.out)
    assert (figures["step"], figures["stopped"], figures["evaluation"]) == (2, "stop_after", {})
    assert f"cckt train --resume {run} goes on" in said.err
    said = say("train", "--resume", run, "--stop-after", "1", "--json", "-")
    assert json.loads(said.out)["step"] == 3, said.err
    data.rename(moved)
    assert str(data) in say("train", "--resume", run).sentence()
    said = say("train", "--out", run, "--train", moved, "--val", moved, "--resume", "--json", "-")
    assert said.code == 0, said.err
    figures = json.loads(said.out)
    assert (figures["step"], figures["stopped"]) == (9, "")
    assert figures["evaluation"]["figures"]["data"] == str(moved)
    assert json.loads((run / "data.json").read_text()) == {
        "train": str(moved),
        "val": str(moved),
        "max_steps": None,
    }


def test_what_is_missing_is_asked_for_by_its_option(say: Say, tmp_path: Path) -> None:
    data, run = make_data(tmp_path / "data"), tmp_path / "run"
    for words in ((), ("--resume",), ("--recipe", "shapeworld")):
        assert "no run is named; give --out FOLDER" in say("train", *words).sentence()
    said = say("train", "--recipe", "shapeworld", "--out", run)
    assert "no data set is named; give --train FOLDER" in said.sentence()
    assert "a run folder made by cckt train" in say("train", "--resume", run).sentence()
    assert "name two runs" in say("train", "--resume", run, "--out", data).sentence()
    assert say(*begin(tmp_path, data, run)).code == 0
    (run / "data.json").unlink()
    assert "found no data.json" in say("train", "--resume", run).sentence()
