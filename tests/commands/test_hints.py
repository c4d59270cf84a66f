"""Hints that name commands: a user who copies them reaches the end, without a word of his own."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from cckt import cli
from tests.commands.front import Call, Outcome, World, coco, index, options

COMMAND = re.compile(r"cckt ((?:cache|data|train|eval|doctor) .*?)(?:`|\.?$)")


def hint(outcome: Outcome) -> str:
    """Return the commands that the message of a user error names."""
    sentence = outcome.sentence()
    found = COMMAND.search(sentence)
    assert found, f"no command in: {sentence}"
    return f"cckt {found[1]}"


def follow(call: Call, words: list[object], most: int) -> tuple[list[str], Outcome]:
    """Run a command, and what its messages say, until it succeeds; return the hints and the last outcome."""
    hints: list[str] = []
    for _ in range(most + 1):
        outcome = call(*words)
        if outcome.code == 0:
            return hints, outcome
        hints.append(hint(outcome))
        for one in hints[-1].split(" && "):
            done = call(*shlex.split(one)[1:])
            assert done.code == 0, f"{one}: {done.err}"
    raise AssertionError(f"no end after {hints}")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two shapeworld data sets without columns; its name has a space."""
    folder = tmp_path_factory.mktemp("new user")
    for name, keep in (("train", "base"), ("val", "all")):
        words = ["data", "shapeworld", "--photos", "4", "--out", str(folder / name), "--keep", keep]
        assert cli.run(words) == 0
    return folder


@pytest.fixture
def data(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "new user"))


def test_training_on_a_data_set_without_columns(call: Call, data: Path) -> None:
    words = ["train", "--recipe", "shapeworld", "--train", data / "train", "--out", data / "run"]
    hints, _ = follow(call, [*words, "--max-steps", "1", *options()], 1)
    assert hints == [f"cckt cache all {shlex.quote(str(data / 'train'))} --teacher shapeworld"]


def test_training_with_columns_that_are_there_in_part(call: Call, data: Path) -> None:
    assert call("cache", "text", data / "train", "--teacher", "shapeworld", "--templates", "single").code == 0
    words = ["train", "--recipe", "shapeworld", "--train", data / "train", "--out", data / "run"]
    hints, _ = follow(call, [*words, "--max-steps", "1", *options()], 1)
    assert hints == [f"cckt cache crops {shlex.quote(str(data / 'train'))} --teacher shapeworld"]


def test_priors_whose_images_are_missing(call: Call, data: Path) -> None:
    assert call("cache", "text", data / "val", "--teacher", "shapeworld", "--templates", "single").code == 0
    assert call("cache", "text", data / "train", "--teacher", "shapeworld").code == 0
    assert call("cache", "crops", data / "train", "--teacher", "shapeworld").code == 0
    words = ["train", "--recipe", "shapeworld", "--train", data / "train", "--val", data / "val"]
    words += ["--out", data / "run", "--max-steps", "1", *options()]
    hints, _ = follow(call, words, 1)
    place = shlex.quote(str(data / "val"))
    assert hints == [f"cckt cache images {place} --teacher shapeworld && cckt cache priors {place}"]


@pytest.mark.parametrize("verb", ["eval", "report", "predict", "pseudo"])
def test_a_data_set_without_columns_is_told_the_teacher_of_the_run(
    call: Call, world: World, tmp_path: Path, verb: str
) -> None:
    folder = coco(tmp_path / "new user")
    assert call(*index(folder, "data set", "all")).code == 0
    place = folder / "data set"
    words = {
        "eval": ["eval", world.run, "--data", place, "--resamples", "0"],
        "report": ["report", world.run, "--data", place, "--out", folder / "why.html"],
        "predict": ["predict", world.run, "--data", place, "--out", folder / "finds", "--no-pictures"],
        "pseudo": ["pseudo", world.run, "--data", place, "--out", folder / "more"],
    }[verb]
    hints, _ = follow(call, words, 1)
    expected = f"cckt cache all {shlex.quote(str(place))} --teacher {shlex.quote(world.teacher)}"
    assert hints in ([expected], []), "predict embeds the concepts itself"
    assert bool(hints) == (verb != "predict")


def test_doctor_and_verify_name_the_teacher(call: Call, data: Path) -> None:
    command = f"cckt cache all {shlex.quote(str(data / 'val'))} --teacher shapeworld"
    told = call("doctor", "--data", data / "val")
    assert f"no column yet; run {command}" in told.out
    assert hint(call("cache", "verify", data / "val")) == command
    assert hint(call("cache", "info", data / "val")) == command
    assert call(*shlex.split(command)[1:]).code == 0
    assert call("cache", "verify", data / "val").code == 0


def test_the_two_files_of_a_split_are_indexed_by_the_lines_that_it_prints(call: Call, data: Path) -> None:
    done = call("data", "split", data / "val", "--share", "0.5", "--out", data / "two parts")
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("cckt ")]
    assert len(lines) == 2
    counts = []
    for line in lines:
        made = call(*shlex.split(line)[1:])
        assert made.code == 0, made.err
        card = json.loads(
            (data / "two parts" / Path(shlex.split(line)[-1]).name / "index" / "index.json").read_text()
        )
        counts.append((card["keep"], card["counts"]["images"]))
    assert [keep for keep, _ in counts] == ["base", "all"]
    assert sum(number for _, number in counts) == 4


def test_a_run_that_was_edited_is_accepted_by_the_command_that_is_named(
    call: Call, world: World, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(world.run, tmp_path / "a run"))
    (run / "config.toml").write_text((run / "config.toml").read_text() + "\n")
    words = ["predict", run, world.folder / "photos", "--vocabulary", "cup", "--out", tmp_path / "finds"]
    hints, _ = follow(call, words, 1)
    assert hints == [f"cckt doctor --run {shlex.quote(str(run))} --accept"]


def test_an_unfinished_run_names_the_command_that_continues_it(
    call: Call, world: World, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    stopped = call(*world.train(run, "--stop-after", "1", "--max-steps", "2"))
    assert stopped.code == 0, stopped.err
    assert f"run cckt train --resume {shlex.quote(str(run))} to continue" in stopped.out
    told = call("doctor", "--run", run)
    assert f"continue with cckt train --resume {shlex.quote(str(run))}" in told.out
