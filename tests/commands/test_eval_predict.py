"""`cckt eval` and `cckt predict`: the protocol, few boxes, refused results files, warnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.front import Said, World, cckt, write

Say = Callable[..., Said]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.build(tmp_path_factory.mktemp("eval"))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return lambda *words: cckt(capsys, *words)


def predicted(say: Say, world: World, out: Path, words: str) -> Path:
    """Predict on all photos of the data set, whose image ids are 1 to 6 in this order."""
    options = ["--vocabulary", words, "--out", out, "--min-score", "0", "--no-pictures"]
    said = say("predict", world.run, world.folder / "photos", *options)
    assert said.code == 0, said.err
    return out / "predictions.json"


def test_eval_names_the_protocol_and_marks_few_boxes(say: Say, world: World, tmp_path: Path) -> None:
    said = say("eval", world.run, "--data", world.held, "--resamples", "0", "--out", tmp_path)
    assert said.code == 0, said.err
    assert "protocol custom, in percent" in " ".join(said.out.split())
    assert "only 6 boxes" in said.out
    found = tmp_path / "detections.json"
    said = say("eval", "--detections", found, "--data", world.held, "--resamples", "0", "--protocol", "coco")
    assert "protocol coco, in percent" in " ".join(said.out.split())
    said = say("eval", world.run, "--against", world.run, "--data", world.held, "--resamples", "2")
    assert "protocol custom, in percent" in " ".join(said.out.split())


def test_predictions_are_scored_only_with_the_names_of_the_index(
    say: Say, world: World, tmp_path: Path
) -> None:
    right = predicted(say, world, tmp_path / "right", "cup, box, cat, dog")
    common: list[Any] = ["--data", world.held, "--resamples", "0"]
    assert say("eval", "--detections", right, *common).code == 0
    wrong = predicted(say, world, tmp_path / "wrong", "dog, cup, box, cat")
    sentence = say("eval", "--detections", wrong, *common).sentence()
    assert f"{tmp_path}/wrong/images.json: category 1 is 'dog', expected 'cup' of {world.held}" in sentence
    assert f"score the run with cckt eval RUN --data {world.held}" in sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "has the score nan, expected a finite number"),
        ({"score": float("inf")}, "has the score inf, expected a finite number"),
        ({"image_id": 99}, "image id 99 is not in"),
        ({"category_id": 99}, "category id 99 is not in"),
        ({"bbox": [34, 20, 62, 50]}, "1 of 2 boxes leave their photo"),
    ],
)
def test_unusable_detections_are_refused_with_one_sentence(
    say: Say, world: World, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 20, 28, 50], "score": 0.9}
    file = write(tmp_path / "found.json", json.dumps([good, good | change]))
    assert message in say("eval", "--detections", file, "--data", world.held).sentence()


def test_predict_warns_if_no_detection_of_the_evaluation_is_correct(
    say: Say, world: World, tmp_path: Path
) -> None:
    known = json.loads((world.run / "metrics.json").read_text())
    photo = world.folder / "photos" / "0.png"
    options = ["--vocabulary", "cup", "--out", tmp_path, "--no-pictures"]
    for f1, warns in ((0.0, True), (0.4, False)):
        known["evaluation"]["figures"]["best_f1"] = {"score": 1.0 if not f1 else 0.3, "f1": f1}
        write(world.run / "metrics.json", json.dumps(known))
        said = say("predict", world.run, photo, *options)
        assert said.code == 0
        lines = [line for line in said.err.splitlines() if "no detection of the run's own evaluation" in line]
        assert len(lines) == warns
