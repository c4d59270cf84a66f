"""`cckt train`: starting, stopping and resuming runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cckt.detector.config.config import save_config
from tests.commands.front import Call, World, options, write
from tests.detector.tiny import make_data, tiny_config


def begin(folder: Path, data: Path, run: Path) -> list[object]:
    save_config(tiny_config("prior.source=none"), folder / "tiny.toml")
    words = ["--train", data, "--val", data, "--out", run, "--config", folder / "tiny.toml"]
    return ["train", *words, "--stop-after", "2", "--json", "-"]


def test_a_stopped_run_resumes_by_its_name(call: Call, tmp_path: Path) -> None:
    data, run, moved = make_data(tmp_path / "data"), tmp_path / "run", tmp_path / "moved"
    outcome = call(*begin(tmp_path, data, run))
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert (figures["step"], figures["stopped"], figures["evaluation"]) == (2, "stop_after", {})
    assert f"run cckt train --resume {run} to continue" in outcome.err
    outcome = call("train", "--resume", run, "--stop-after", "1", "--json", "-")
    assert json.loads(outcome.out)["step"] == 3, outcome.err
    data.rename(moved)
    assert str(data) in call("train", "--resume", run).sentence()
    outcome = call("train", "--out", run, "--train", moved, "--val", moved, "--resume", "--json", "-")
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert (figures["step"], figures["stopped"]) == (9, "")
    assert figures["evaluation"]["figures"]["data"] == str(moved)
    assert json.loads((run / "data.json").read_text()) == {
        "train": str(moved),
        "val": str(moved),
        "max_steps": None,
    }


def test_a_missing_folder_or_recipe_names_its_option(call: Call, tmp_path: Path) -> None:
    data, run = make_data(tmp_path / "data"), tmp_path / "run"
    for words in ((), ("--resume",), ("--recipe", "shapeworld")):
        assert "no run is named; give --out FOLDER" in call("train", *words).sentence()
    outcome = call("train", "--recipe", "shapeworld", "--out", run)
    assert "no data set is named; give --train FOLDER" in outcome.sentence()
    assert "a run folder made by cckt train" in call("train", "--resume", run).sentence()
    assert "name two runs" in call("train", "--resume", run, "--out", data).sentence()
    assert call(*begin(tmp_path, data, run)).code == 0
    (run / "data.json").unlink()
    assert "found no data.json" in call("train", "--resume", run).sentence()


def test_an_option_after_a_bare_resume_is_not_its_value(call: Call) -> None:
    assert "Usage: cckt train" in call("train", "--resume", "-h").out


def test_resume_needs_no_recipe(call: Call, world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert call(*world.train(out)).code == 0
    folders = ["--train", world.seen, "--val", world.held, "--out", out]
    outcome = call("train", *folders, "--resume", "--max-steps", "2", "--json", "-")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["step"] == 2


def test_plain_config_and_set_apply_to_the_recipe_in_this_order(
    call: Call, world: World, tmp_path: Path
) -> None:
    from cckt.detector.runs.run_folder import run_config

    config = write(tmp_path / "more.toml", "[train]\nlr = 0.001\nlog_every = 7\n")
    out = tmp_path / "run"
    outcome = call(*world.train(out, "--plain", "--config", str(config), "--set", "train.log_every=9"))
    assert outcome.code == 0, outcome.err
    found = run_config(out)
    assert (found.guidance.enabled, found.inference.classification) == (False, "head")
    assert (found.train.lr, found.train.log_every) == (0.001, 9)


@pytest.mark.parametrize("option", ["--train", "--val"])
def test_two_data_sets_are_refused(call: Call, option: str) -> None:
    sentence = call("train", option, "a", option, "b", "--out", "run", "--recipe", "shapeworld").sentence()
    assert f"{option} is given 2 times (a, b), expected one data set" in sentence


def test_a_run_starts_from_another_one_and_says_what_was_taken(
    call: Call, world: World, tmp_path: Path
) -> None:
    common = ["train", "--recipe", "shapeworld", "--train", world.seen, *options(), "--max-steps", "1"]
    outcome = call(*common, "--from", world.run, "--out", tmp_path / "a")
    assert outcome.code == 0, outcome.err
    assert "tensors of the model were taken" in outcome.err
    assert "warning: the run has 3 steps" in outcome.err
    assert "--from" in call(*common, "--from", tmp_path / "none", "--out", tmp_path / "b").sentence()
    assert (
        "applies only to a new run" in call("train", "--resume", tmp_path / "a", "--epochs", "2").sentence()
    )


def test_the_length_of_a_run_follows_the_photos_or_the_minutes(
    call: Call, world: World, tmp_path: Path
) -> None:
    common = ["train", "--recipe", "shapeworld", "--train", world.seen, *options(), "--print-config"]
    shown = call(*common, "--epochs", "auto")
    assert "\nepochs = 50\n" in shown.out
    assert "\nepochs = 7\n" in call(*common, "--epochs", "7").out
    assert "\nepochs = 1\n" in call(*common, "--epochs", "1", "--minutes", "60").out
    assert "--epochs x: expected auto or a whole number" in call(*common, "--epochs", "x").sentence()
    assert "--minutes 0: expected a number above 0" in call(*common, "--minutes", "0").sentence()
    assert "an epoch takes" in call(*common, "--minutes", "0.0000001").sentence()
    assert not list(tmp_path.iterdir())
