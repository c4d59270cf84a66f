"""`cckt cache priors --report`, `eval --priors-only`, `doctor --mllm-model`, and what refusals say to run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cckt import cli
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import open_column
from cckt.detector.config.config import apply_overrides, save_config
from cckt.detector.config.recipes import recipe
from tests.cache_builder.mllm.mllm_models import outspoken
from tests.cache_builder.samples import write_teacher
from tests.commands.front import Said, cckt, coco, index

Say = Callable[..., Said]


@dataclass(frozen=True)
class World:
    """`held`: a data set with columns text, images and priors/clip; `run`: a folder with a config alone."""

    held: Path
    run: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = coco(tmp_path_factory.mktemp("priors"))
    teacher = write_teacher(folder / "teacher")
    world = World(folder / "held", folder / "run")
    for command in (
        index(folder, "held", "all"),
        ["cache", "text", world.held, "--teacher", teacher],
        ["cache", "images", world.held, "--teacher", teacher],
        ["cache", "priors", world.held],
    ):
        assert cli.run([str(word) for word in command]) == 0, command
    world.run.mkdir()
    save_config(apply_overrides(recipe("shapeworld"), ["prior.rho=0.35"]), world.run / "config.toml")
    return world


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multimodal LLM in a folder, which says yes or no."""
    folder = tmp_path_factory.mktemp("a model") / "of mine"
    for part in outspoken():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return lambda *words: cckt(capsys, *words)


def test_priors_are_measured_as_they_are_made(say: Say, world: World, model: Path) -> None:
    said = say("cache", "priors", world.held, "--mllm-model", model, "--device", "cpu", "--report")
    assert said.code == 0, said.err
    for words in (
        "clip, novel",
        "mllm, novel",
        "oracle, all",
        "present is p >= 0.7, at most 6",
        "adversarial",
    ):
        assert words in said.out
    again = say("cache", "priors", world.held, "--report", "--rho", "0.5", "--limit", "2", "--json", "-")
    assert again.code == 0, again.err
    figures = json.loads(again.out)
    assert figures["name"] == "priors/clip"
    assert (figures["report"]["rho"], figures["report"]["limit"]) == (0.5, 2)
    assert set(figures["report"]["sources"]) == {"clip", "mllm", "oracle"}
    assert figures["report"]["sources"]["oracle"]["existence"]["novel"]["f1"] == 1.0


def test_eval_can_measure_the_priors_alone(say: Say, world: World) -> None:
    said = say("eval", "--priors-only", "--data", world.held, "--json", "-")
    assert said.code == 0, said.err
    assert json.loads(said.out)["rho"] == 0.70
    lent = say("eval", world.run, "--priors-only", "--data", world.held, "--json", "-")
    limit = recipe("shapeworld").prior.limit
    assert (json.loads(lent.out)["rho"], json.loads(lent.out)["limit"]) == (0.35, limit)
    own = say("eval", world.run, "--priors-only", "--rho", "0.25", "--data", world.held, "--json", "-")
    assert (json.loads(own.out)["rho"], json.loads(own.out)["limit"]) == (0.25, limit)


def test_a_world_of_shapeworld_is_measured_at_its_recipes_thresholds(say: Say, world: World) -> None:
    (world.held / "world.json").write_text("{}")
    try:
        said = say("eval", "--priors-only", "--data", world.held, "--json", "-")
    finally:
        (world.held / "world.json").unlink()
    assert json.loads(said.out)["rho"] == recipe("shapeworld").prior.rho


def test_options_of_a_report_that_is_not_asked_for(say: Say, world: World, tmp_path: Path) -> None:
    assert "add --report" in say("cache", "priors", world.held, "--rho", "0.5").sentence()
    elsewhere = say("cache", "priors", world.held, "--report", "--out", tmp_path)
    assert "leave one of them out" in elsewhere.sentence()
    assert (
        "--priors-only, which is not asked for"
        in say("eval", world.run, "--data", world.held, "--limit", "3").sentence()
    )
    assert "no data set is named" in say("eval", "--priors-only").sentence()


def test_the_doctor_shows_what_yes_and_no_are_made_of(say: Say, model: Path) -> None:
    said = say("doctor", "--mllm-model", model, "--json", "-")
    assert said.code == 0, said.err
    findings = json.loads(said.out)["findings"]
    (found,) = [one["message"] for one in findings if one["subject"] == f"mllm {model}"]
    assert "LlavaForConditionalGeneration" in found
    assert "tokens for yes: 'yes', ' yes'" in found
    assert "; no: " in found
    missing = say("doctor", "--mllm-model", "no-such/model")
    assert "1 of these must be mended first" in missing.sentence()
    assert "no-such/model could not be loaded" in " ".join(missing.out.split())


def test_a_refused_column_names_a_command_that_works(say: Say, world: World, model: Path) -> None:
    assert say("cache", "priors", world.held, "--mllm-model", model, "--device", "cpu").code == 0
    with pytest.raises(UserError) as refused:
        open_column(world.held, "priors/mllm", index_digest="sha256:" + 64 * "0")
    (command,) = re.findall(r"cckt (cache priors .*? --mllm .*?)( --overwrite)?`", str(refused.value))
    assert say(*shlex.split(command[0]), "--overwrite").code == 0
    name = open_column(world.held, "priors/mllm").manifest.spec.recipe["model"]["name"]
    assert name == str(model), "the model, not the one that --mllm alone means"
