"""`cckt eval` and `cckt predict`: the protocol, few boxes, refused results files, warnings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cckt.detector.runs.file_digests import accept
from tests.commands.front import Call, World, write


def predicted(call: Call, world: World, out: Path, words: str) -> Path:
    """Predict on all photos of the data set, whose image ids are 1 to 6 in this order."""
    options = ["--vocabulary", words, "--out", out, "--min-score", "0", "--no-pictures"]
    outcome = call("predict", world.run, world.folder / "photos", *options)
    assert outcome.code == 0, outcome.err
    return out / "predictions.json"


def test_eval_names_the_protocol_and_marks_few_boxes(call: Call, world: World, tmp_path: Path) -> None:
    outcome = call("eval", world.run, "--data", world.held, "--resamples", "0", "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "protocol custom, in percent" in " ".join(outcome.out.split())
    assert "only 6 boxes" in outcome.out
    found = tmp_path / "detections.json"
    outcome = call(
        "eval", "--detections", found, "--data", world.held, "--resamples", "0", "--protocol", "coco"
    )
    assert "protocol coco, in percent" in " ".join(outcome.out.split())
    outcome = call("eval", world.run, "--against", world.run, "--data", world.held, "--resamples", "2")
    assert "protocol custom, in percent" in " ".join(outcome.out.split())


def test_predictions_are_scored_only_with_the_names_of_the_index(
    call: Call, world: World, tmp_path: Path
) -> None:
    right = predicted(call, world, tmp_path / "right", "cup, box, cat, dog")
    common: list[Any] = ["--data", world.held, "--resamples", "0"]
    assert call("eval", "--detections", right, *common).code == 0
    wrong = predicted(call, world, tmp_path / "wrong", "dog, cup, box, cat")
    sentence = call("eval", "--detections", wrong, *common).sentence()
    assert (
        f"{tmp_path}/wrong/predictions.json: category 1 is 'dog', expected 'cup' of {world.held}" in sentence
    )
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
    call: Call, world: World, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 20, 28, 50], "score": 0.9}
    file = write(tmp_path / "found.json", json.dumps([good, good | change]))
    assert message in call("eval", "--detections", file, "--data", world.held).sentence()


def test_predict_warns_if_no_detection_of_the_evaluation_is_correct(
    call: Call, world: World, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    known = json.loads((run / "metrics.json").read_text())
    photo = world.folder / "photos" / "0.png"
    options = ["--vocabulary", "cup", "--out", tmp_path / "out", "--no-pictures"]
    for f1, warns in ((0.0, True), (0.4, False)):
        known["evaluation"]["figures"]["best_f1"] = {"score": 1.0 if not f1 else 0.3, "f1": f1}
        write(run / "metrics.json", json.dumps(known))
        accept(run)
        outcome = call("predict", run, photo, *options)
        assert outcome.code == 0
        assert outcome.err.count("no detection of the run's own evaluation is correct") == warns
