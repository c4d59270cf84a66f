"""`cckt pseudo`."""

from __future__ import annotations

import json
from pathlib import Path

from cckt.cache_builder.index import open_index
from tests.commands.front import Call, World


def test_pseudo_makes_another_data_set(call: Call, world: World, tmp_path: Path) -> None:
    words = ["--data", world.held, "--out", tmp_path / "more", "--min-score", "0.01", "--json", "-"]
    outcome = call("pseudo", world.run, *words)
    assert outcome.code == 0, outcome.err
    made = json.loads(outcome.out)
    assert made["added"] == int(open_index(tmp_path / "more").pseudo.sum())
    assert made["digest"] != open_index(world.held).digest
    missing = call("cache", "info", tmp_path / "more")
    assert f"cckt cache all {tmp_path / 'more'} --teacher {world.teacher}" in missing.sentence()
    words[3] = world.held
    assert "is the data set itself" in call("pseudo", world.run, *words).sentence()


def test_a_teacher_is_given_only_to_confirm(call: Call, world: World, tmp_path: Path) -> None:
    for words in (["eval", world.run], ["pseudo", world.run, "--out", tmp_path / "more"]):
        outcome = call(*words, "--data", world.held, "--teacher", world.teacher)
        assert "--teacher applies only with --confirm; remove it." in outcome.sentence()
