"""`cckt cache text`, `crops`, `images` and `all`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cache_builder.samples import write_teacher
from tests.commands.front import Call, World, coco, index


def test_a_finished_column_is_found_and_shown(call: Call, world: World) -> None:
    outcome = call("cache", "crops", world.seen, "--teacher", world.teacher)
    assert "0 chunks made, 1 found" in outcome.out
    outcome = call("cache", "info", world.seen, "--json", "-")
    assert set(json.loads(outcome.out)) == {"text", "crops"}
    assert "finished" in call("cache", "info", world.seen, "crops").out
    assert "crops" not in call("cache", "info", world.seen, "text").out


def test_all_makes_the_same_columns_as_the_single_commands(call: Call, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    call(*index(tmp_path, "held", "all"))
    outcome = call("cache", "all", tmp_path / "held", "--teacher", world.teacher, "--json", "-")
    assert set(json.loads(outcome.out)) == {"text", "crops", "images", "priors/clip"}
    outcome = call("cache", "diff", tmp_path / "held", world.held)
    assert outcome.code == 0
    assert outcome.out.count("the rows are the same, byte for byte") == 3


def test_views_of_crops_and_columns_of_a_second_teacher(call: Call, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    call(*index(tmp_path, "held", "all"))
    data, other = tmp_path / "held", write_teacher(tmp_path / "other", seed=1)
    outcome = call(
        "cache", "crops", data, "--teacher", world.teacher, "--flipped", "--jitter", "1", "--json", "-"
    )
    assert set(json.loads(outcome.out)) == {"crops", "crops-flipped", "crops-jitter-1"}
    for verb in ("text", "crops", "images"):
        words = ["--fast"] if verb != "text" else []
        outcome = call("cache", verb, data, "--teacher", other, "--name", "b", *words)
        assert outcome.code == 0, outcome.err
    assert call("cache", "priors", data, "--name", "b").code == 0
    outcome = call("cache", "info", data, "--json", "-")
    assert set(json.loads(outcome.out)) >= {"text-b", "crops-b", "images-b", "priors/clip-b"}
