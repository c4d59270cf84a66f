"""Data without boxes or words at the command line: what cannot be done with them, and the next step."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.front import Call, World, coco, index, options, write


def test_data_without_a_box(call: Call, world: World, tmp_path: Path) -> None:
    """Nothing can be scored on it, and nothing but proposals could teach a detector on it."""
    coco(tmp_path)
    bare = json.loads((tmp_path / "coco.json").read_text())
    write(tmp_path / "coco.json", {**bare, "annotations": []})
    for keep, kinds in (("all", ("text", "images")), ("base", ("text", "crops"))):
        assert call(*index(tmp_path, keep, keep)).code == 0
        for kind in kinds:
            assert call("cache", kind, tmp_path / keep, "--teacher", world.teacher).code == 0
    bare, found = tmp_path / "all", write(tmp_path / "found.json", "[]")
    train = ["train", "--recipe", "shapeworld", "--out", tmp_path / "r", *options(), "--train"]
    for words in (
        ["eval", world.run, "--data", bare, "--priors", "none"],
        ["eval", "--detections", found, "--data", bare],
        ["report", world.run, "--data", bare, "--out", tmp_path / "report"],
        [*train, world.seen, "--val", bare],
        ["ablate", "table6", "--run", world.run, "--val", bare, "--out", tmp_path / "table"],
    ):
        assert "found no box, expected some to score against; index" in call(*words).sentence(), words
    assert "found no box, expected some to learn from" in call(*train, tmp_path / "base").sentence()
    assert not (tmp_path / "r").exists()


def test_photos_without_words_name_the_option_for_words(call: Call, world: World, tmp_path: Path) -> None:
    photos = ["--images", world.folder / "photos", "--out", tmp_path / "bare"]
    assert call("data", "index", *photos).code == 0
    words = ["pseudo", world.run, "--data", tmp_path / "bare", "--out", tmp_path / "more"]
    assert "has no concept, expected at least one to find; index its photos" in call(*words).sentence()
