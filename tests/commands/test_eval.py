"""`cckt eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.front import Call, World


def test_a_run_does_not_differ_from_itself(call: Call, world: World, tmp_path: Path) -> None:
    call("eval", world.run, "--data", world.held, "--out", tmp_path)
    words = ["--against", tmp_path / "detections.json", "--data", world.held, "--resamples", "20"]
    outcome = call("eval", world.run, *words, "--json", tmp_path / "duel.json")
    assert outcome.code == 0, outcome.err
    assert "no difference shown" in outcome.out or "nothing to compare" in outcome.out
    duel = json.loads((tmp_path / "duel.json").read_text())
    assert duel["a"]["ap50_base"] == duel["b"]["ap50_base"]


def test_a_run_and_its_detections_have_the_same_figures(call: Call, world: World, tmp_path: Path) -> None:
    words = ["eval", world.run, "--data", world.held, "--out", tmp_path / "e", "--json", tmp_path / "a.json"]
    outcome = call(*words, "--concepts")
    assert outcome.code == 0, outcome.err
    assert "AP50 novel" in outcome.out
    assert "cat" in outcome.out
    detections = tmp_path / "e" / "detections.json"
    again = call("eval", "--detections", detections, "--data", world.held, "--json", tmp_path / "b.json")
    assert again.code == 0, again.err
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    for name in ("ap50_base", "ap50_novel", "ap50_all", "ap"):
        assert first[name] == pytest.approx(second[name])


def test_a_results_file_is_scored_without_photos(call: Call, world: World, tmp_path: Path) -> None:
    evaluated = call("eval", world.run, "--data", world.held, "--out", tmp_path / "own", "--json", "-")
    found = tmp_path / "own" / "detections.json"
    split = ["--split", world.folder / "split.json"]
    made = call("data", "index", "--annotations", world.folder / "coco.json", *split, "--out", tmp_path / "d")
    assert "serves only cckt eval with --detections" in made.out
    found = found.rename(tmp_path / "results.json")
    again = call("eval", "--detections", found, "--data", tmp_path / "d", "--json", "-")
    for name in ("ap", "ap50_base", "ap50_novel"):
        assert json.loads(again.out)[name] == json.loads(evaluated.out)[name]
    images = call("cache", "images", tmp_path / "d", "--teacher", world.teacher)
    assert "none of the 6 photos of" in images.sentence()


def test_every_source_of_priors_and_every_score(call: Call, world: World, tmp_path: Path) -> None:
    for priors in ("clip", "oracle", "none"):
        for way in ("similarity", "head", "product"):
            words = ["--priors", priors, "--classification", way, "--out", tmp_path / f"{priors}-{way}"]
            assert call("eval", world.run, "--data", world.held, *words).code == 0
    assert len(list(tmp_path.glob("*/metrics.json"))) == 9


def test_words_that_are_drawn_have_a_table(call: Call, world: World) -> None:
    outcome = call("eval", world.run, "--data", world.held, "--asked", "1", "--resamples", "0")
    assert outcome.code == 0, outcome.err
    assert "1 word drawn 50 times, score 0." in outcome.out
