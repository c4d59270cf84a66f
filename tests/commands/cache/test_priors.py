"""`cckt cache priors --report`, `eval --priors-only` and `doctor --mllm-model`."""

from __future__ import annotations

import json
import re
import shlex
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
from tests.commands.front import Call, coco, index


@dataclass(frozen=True)
class World:
    """`held`: a data set with columns text, images and priors/clip; `run`: a folder with only a config."""

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
    """A folder with a multimodal LLM that answers yes or no."""
    folder = tmp_path_factory.mktemp("a model") / "of mine"
    for part in outspoken():
        part.save_pretrained(folder)
    return folder


def test_report_measures_every_source_of_priors(call: Call, world: World, model: Path) -> None:
    outcome = call("cache", "priors", world.held, "--mllm-model", model, "--device", "cpu", "--report")
    assert outcome.code == 0, outcome.err
    for words in (
        "clip, novel",
        "mllm, novel",
        "oracle, all",
        "present if p >= 0.7, at most 6 per image",
        "adversarial",
    ):
        assert words in outcome.out
    again = call("cache", "priors", world.held, "--report", "--rho", "0.5", "--limit", "2", "--json", "-")
    assert again.code == 0, again.err
    figures = json.loads(again.out)
    assert figures["name"] == "priors/clip"
    assert (figures["report"]["rho"], figures["report"]["limit"]) == (0.5, 2)
    assert set(figures["report"]["sources"]) == {"clip", "mllm", "oracle"}
    assert figures["report"]["sources"]["oracle"]["existence"]["novel"]["f1"] == 1.0


def test_priors_only_takes_its_thresholds_from_a_run(call: Call, world: World) -> None:
    outcome = call("eval", "--priors-only", "--data", world.held, "--json", "-")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["rho"] == 0.70
    lent = call("eval", world.run, "--priors-only", "--data", world.held, "--json", "-")
    limit = recipe("shapeworld").prior.limit
    assert (json.loads(lent.out)["rho"], json.loads(lent.out)["limit"]) == (0.35, limit)
    own = call("eval", world.run, "--priors-only", "--rho", "0.25", "--data", world.held, "--json", "-")
    assert (json.loads(own.out)["rho"], json.loads(own.out)["limit"]) == (0.25, limit)


def test_shapeworld_data_is_measured_at_the_thresholds_of_its_recipe(call: Call, world: World) -> None:
    (world.held / "world.json").write_text("{}")
    try:
        outcome = call("eval", "--priors-only", "--data", world.held, "--json", "-")
    finally:
        (world.held / "world.json").unlink()
    assert json.loads(outcome.out)["rho"] == recipe("shapeworld").prior.rho


def test_options_without_the_report_they_belong_to(call: Call, world: World, tmp_path: Path) -> None:
    assert "add --report, or remove them" in call("cache", "priors", world.held, "--rho", "0.5").sentence()
    elsewhere = call("cache", "priors", world.held, "--report", "--out", tmp_path)
    assert "remove one of the two options" in elsewhere.sentence()
    assert (
        "apply only to --priors-only; add it"
        in call("eval", world.run, "--data", world.held, "--limit", "3").sentence()
    )
    assert "no data set is named" in call("eval", "--priors-only").sentence()
    for option in (
        ["--priors", "mllm"],
        ["--protocol", "coco"],
        ["--asked", "3"],
        ["--out", tmp_path / "e"],
    ):
        outcome = call("eval", world.run, "--priors-only", "--data", world.held, *option)
        assert f"{option[0]} scores detections; you passed --priors-only. Remove it." in outcome.sentence()


def test_doctor_shows_the_tokens_of_yes_and_no(call: Call, model: Path) -> None:
    outcome = call("doctor", "--mllm-model", model, "--json", "-")
    assert outcome.code == 0, outcome.err
    findings = json.loads(outcome.out)["findings"]
    (found,) = [one["message"] for one in findings if one["subject"] == f"mllm {model}"]
    assert "LlavaForConditionalGeneration" in found
    assert "tokens for yes: 'yes', ' yes'" in found
    assert "; no: " in found
    missing = call("doctor", "--mllm-model", "no-such/model")
    assert re.match(r"1 of \d+ checks failed", missing.sentence())
    assert "no-such/model could not be loaded" in " ".join(missing.out.split())


def test_a_refused_column_names_a_command_that_runs(call: Call, world: World, model: Path) -> None:
    assert call("cache", "priors", world.held, "--mllm-model", model, "--device", "cpu").code == 0
    with pytest.raises(UserError) as refused:
        open_column(world.held, "priors/mllm", index_digest="sha256:" + 64 * "0")
    (command,) = re.findall(r"cckt (cache priors .*? --mllm .*?)( --overwrite)?`", str(refused.value))
    assert call(*shlex.split(command[0]), "--overwrite").code == 0
    name = open_column(world.held, "priors/mllm").manifest.spec.recipe["model"]["name"]
    assert name == str(model), "expected the named model, not the default of --mllm"
