"""`cckt predict`."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.commands.front import Call, World, write


def test_predict_uses_the_teacher_of_the_run(call: Call, world: World, tmp_path: Path) -> None:
    broken = world.folder / "mixed"
    shutil.copytree(world.folder / "photos", broken, dirs_exist_ok=True)
    write(broken / "broken.jpg", "not a photo")
    out = tmp_path / "finds"
    words = ["--vocabulary", "cup, cat|kitten", "--out", out, "--min-score", "0", "--json", "-"]
    outcome = call("predict", world.run, broken, *words)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["photos"] == 7
    assert "broken.jpg" in outcome.err
    results = json.loads((out / "predictions.json").read_text())
    known = json.loads((out / "images.json").read_text())
    assert {one["image_id"] for one in results} <= {one["id"] for one in known["images"]}
    assert {one["category_id"] for one in results} == {1, 2}
    assert [one["name"] for one in known["categories"]] == ["cup", "cat"]
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 6
    assert Image.open(pictures[0]).width >= 512


def test_predict_without_priors_or_pictures(call: Call, world: World, tmp_path: Path) -> None:
    photo = world.folder / "photos" / "0.png"
    words = ["--vocabulary", "cup", "--out", tmp_path, "--priors", "none", "--no-pictures"]
    assert call("predict", world.run, photo, *words).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.json", "predictions.json"]


def test_predict_reads_patterns_and_lists_and_writes_each_format(
    call: Call, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = world.folder / "photos"
    common: list[Any] = ["--vocabulary", "cup, cat", "--min-score", "0", "--no-pictures"]
    outcome = call("predict", world.run, f"{photos}/[01].png", *common, "--out", tmp_path, "--format", "csv")
    assert outcome.code == 0, outcome.err
    assert "images/s" in outcome.out
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert {Path(row["photo"]).name for row in rows} == {"0.png", "1.png"}
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos}/3.png\n{photos}/4.png\n"))
    assert call("predict", world.run, "-", *common, "--out", tmp_path, "--format", "yolo").code == 0
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["3.txt", "4.txt"]
    outcome = call("predict", world.run, photos, *common, "--out", tmp_path, "--format", "voc")
    assert "--format voc is not known; expected coco, yolo or csv" in outcome.sentence()


def test_results_of_somebody_else_are_not_replaced(call: Call, world: World, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text("precious")
    words = ["predict", world.run, world.folder / "photos", "--vocabulary", "cup", "--out", tmp_path]
    assert "predictions.json" in call(*words).sentence()
    assert (tmp_path / "predictions.json").read_text() == "precious"
    assert call("eval", world.run, "--data", world.held, "--out", tmp_path / "e").code == 0
    (tmp_path / "e" / "metrics.json").write_text("{}")
    assert "metrics.json" in call("eval", world.run, "--data", world.held, "--out", tmp_path / "e").sentence()
