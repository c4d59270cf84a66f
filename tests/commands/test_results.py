"""`cckt report`, `pseudo`, `export`, and predict's sources and formats, typed as a person types them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cckt.cache_builder.index import open_index
from tests.commands.front import Said, World, cckt

Say = Callable[..., Said]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.build(tmp_path_factory.mktemp("results"))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return lambda *words: cckt(capsys, *words)


def test_a_report_is_one_file(say: Say, world: World, tmp_path: Path) -> None:
    out = tmp_path / "why.html"
    said = say("report", world.run, "--data", world.held, "--out", out, "--photos", "4", "--json", "-")
    assert said.code == 0, said.err
    assert json.loads(said.out) == {"report": str(out), "bytes": out.stat().st_size}
    assert out.read_text().startswith("<!doctype html>")
    assert "name each once" in say("report", world.run, world.run, "--data", world.held).sentence()


def test_pseudo_boxes_make_another_data_set(say: Say, world: World, tmp_path: Path) -> None:
    words = ["--data", world.held, "--out", tmp_path / "more", "--min-score", "0.01", "--json", "-"]
    said = say("pseudo", world.run, *words)
    assert said.code == 0, said.err
    made = json.loads(said.out)
    assert made["added"] == int(open_index(tmp_path / "more").pseudo.sum())
    assert made["digest"] != open_index(world.held).digest
    words[3] = world.held
    assert "is the data set itself" in say("pseudo", world.run, *words).sentence()


def test_an_exported_folder_predicts_like_the_run(say: Say, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    assert say("export", world.run, "--format", "hf-folder", "--out", folder).code == 0
    answers = []
    for run in (world.run, folder):
        words = [
            "--vocabulary",
            "cup, cat",
            "--out",
            tmp_path / run.name,
            "--min-score",
            "0",
            "--no-pictures",
        ]
        assert say("predict", run, world.folder / "photos" / "0.png", *words).code == 0
        answers.append((tmp_path / run.name / "predictions.json").read_text())
    assert answers[0] == answers[1]


def test_a_graph_knows_its_words(say: Say, world: World, tmp_path: Path) -> None:
    words = ["--format", "torch", "--out", tmp_path / "d.pt2", "--size", "64x64", "--present", "cat"]
    said = say("export", world.run, *words, "--vocabulary", "cup, cat|kitten", "--json", "-")
    assert said.code == 0, said.err
    made = json.loads(said.out)
    assert (made["concepts"], made["present"], made["size"]) == (2, ["cat"], [64, 64])
    assert made["scores_difference"] < 1e-3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "tflite"], "--format tflite is not known; expected onnx, torch or hf-folder"),
        ([], "a graph needs words"),
        (["--vocabulary", "cup", "--size", "big"], "--size big: expected HEIGHTxWIDTH"),
        (["--vocabulary", "cup", "--format", "torch", "--present", "cap"], "no concept named 'cap'"),
    ],
)
def test_mistakes_of_export(say: Say, world: World, tmp_path: Path, words: list[str], sentence: str) -> None:
    assert sentence in say("export", world.run, "--out", tmp_path / "d", *words).sentence()


def test_predict_reads_patterns_and_lists_and_writes_what_is_asked(
    say: Say, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = world.folder / "photos"
    common: list[Any] = ["--vocabulary", "cup, cat", "--min-score", "0", "--no-pictures"]
    said = say("predict", world.run, f"{photos}/[01].png", *common, "--out", tmp_path, "--format", "csv")
    assert said.code == 0, said.err
    assert "images/s" in said.out
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert {Path(row["photo"]).name for row in rows} == {"0.png", "1.png"}
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos}/3.png\n{photos}/4.png\n"))
    assert say("predict", world.run, "-", *common, "--out", tmp_path, "--format", "yolo").code == 0
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["3.txt", "4.txt"]
    said = say("predict", world.run, photos, *common, "--out", tmp_path, "--format", "voc")
    assert "--format voc is not known; expected coco, yolo or csv" in said.sentence()
