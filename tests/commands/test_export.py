"""`cckt export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cckt.detector.inference.predict import Predictor
from tests.commands.front import Call, World


def test_an_exported_folder_predicts_like_the_run(call: Call, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    assert call("export", world.run, "--format", "hf-folder", "--out", folder).code == 0
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
        assert call("predict", run, world.folder / "photos" / "0.png", *words).code == 0
        answers.append((tmp_path / run.name / "predictions.json").read_text())
    assert answers[0] == answers[1]
    name = "base_text.safetensors"
    assert (folder / name).read_bytes() == (world.run / name).read_bytes()
    assert not any("text embeddings of its base" in note for note in Predictor.load(folder, "cpu").notes)


def test_a_graph_has_its_concepts(call: Call, world: World, tmp_path: Path) -> None:
    words = ["--format", "torch", "--out", tmp_path / "d.pt2", "--size", "64x64", "--present", "cat"]
    outcome = call("export", world.run, *words, "--vocabulary", "cup, cat|kitten", "--json", "-")
    assert outcome.code == 0, outcome.err
    made = json.loads(outcome.out)
    assert (made["concepts"], made["present"], made["size"]) == (2, ["cat"], [64, 64])
    assert made["scores_difference"] < 1e-3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "tflite"], "--format tflite is not known; expected onnx, torch or hf-folder"),
        ([], "a graph needs a vocabulary"),
        (["--vocabulary", "cup", "--size", "big"], "--size big: expected HEIGHTxWIDTH"),
        (["--vocabulary", "cup", "--format", "torch", "--present", "cap"], "no concept named 'cap'"),
    ],
)
def test_user_errors_of_export(
    call: Call, world: World, tmp_path: Path, words: list[str], sentence: str
) -> None:
    assert sentence in call("export", world.run, "--out", tmp_path / "d", *words).sentence()
