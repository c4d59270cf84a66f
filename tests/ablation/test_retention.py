"""Curves over epochs: constant rates, resuming to the bit, continuing, table and picture, messages."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cckt.ablation import AblationPlan, ablate, retention
from cckt.ablation.page import page, rows, sentences
from cckt.ablation.retention import LABELS, check_marks, constant_rate
from cckt.ablation.retention_page import draw, retention_checks
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.runner import Interrupted
from cckt.detector.config.recipes import recipe
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.training.optim import rate_at
from tests.ablation.plans import TWO_PROPOSALS, plan_with_words

TINY = (*TWO_PROPOSALS, "train.checkpoint_every=3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[AblationPlan, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("retention")
    sizes = {"seeds": 1, "photos": 4, "held_out": 4, "top": 3, "at": (2, 1)}
    plan = plan_with_words(folder, recipe="shapeworld-hdovd", overrides=TINY, **sizes)
    return plan, ablate("retention", plan)


def test_options_of_regions_are_refused_with_data_that_have_theirs(tmp_path: Path) -> None:
    for table in ("levels", "retention"):
        for option, change in (("--run", {"run": tmp_path}), ("--top", {"top": 3})):
            plan = AblationPlan(tmp_path, "shapeworld-hdovd", train=tmp_path, val=tmp_path, **change)
            with pytest.raises(UserError, match=f"{option} makes columns of a rendered shapeworld"):
                ablate(table, plan)


def test_every_method_has_a_point_at_every_epoch(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan, answer = made
    assert [row["label"] for row in answer["rows"]] == [*LABELS.values()]
    assert answer["at"] == [1, 2]
    for row in answer["rows"]:
        assert [*row["points"]] == ["1", "2"]
        for mark in ("1", "2"):
            assert row["points"][mark]["ap50_base"] == row["runs"][0]["points"][mark]["ap50_base"]
        run = plan.out / "retention" / f"{row['key']}-0"
        again = evaluate_run(run, plan.out / "held-out").as_dict()  # the weights of the last epoch
        assert row["points"]["2"]["ap50_base"] == pytest.approx(again["ap50_base"], abs=1e-6)
    assert answer == json.loads((plan.out / "retention.json").read_text())
    text = (plan.out / "retention.md").read_text()
    assert text == page(answer)
    assert "![AP50 against epochs](retention.svg)" in text
    assert "--at 2 --at 1" in answer["command"]
    head, *body = rows(answer)
    assert head == ["AP50 novel / base, 1 seed", "epoch 1", "epoch 2"]
    assert len(body) == len(sentences(answer)) == 4


def test_equal_figures_give_an_equal_picture(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path
) -> None:
    plan, answer = made
    files = draw(answer, tmp_path)
    assert [file.name for file in files] == ["retention.svg", "retention.png"]
    for file in files:
        assert file.read_bytes() == (plan.out / file.name).read_bytes()
    text = files[0].read_text()
    assert text.startswith("<?xml")
    assert (plan.out / "retention.png").read_bytes()[:4] == b"\x89PNG"
    empty = {"at": [1], "rows": [{"key": "base", "label": "plain", "points": {}}]}
    assert len(draw(empty, tmp_path)) == 2


def test_a_finished_table_trains_nothing_and_a_longer_one_continues(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, answer = made
    shutil.copytree(plan.out, tmp_path / "out")
    copy = replace(plan, out=tmp_path / "out")
    steps: list[int] = []
    train = retention.train

    def counted(*args: Any, **options: Any) -> dict[str, Any]:
        steps.append(options["max_steps"])
        return train(*args, **options)

    monkeypatch.setattr(retention, "train", counted)
    again = ablate("retention", copy)
    assert steps == []
    assert again["rows"] == answer["rows"]
    longer = ablate("retention", replace(copy, at=(1, 2, 3)))
    assert len(steps) == 4  # one training of each row continues to epoch 3
    for row, known in zip(longer["rows"], answer["rows"], strict=True):
        assert row["points"]["2"] == known["points"]["2"]
        assert "3" in row["points"]
    with pytest.raises(UserError, match=r"was begun with other options \(train\.lr=0\.001\)"):
        ablate("retention", replace(copy, overrides=(*TINY, "train.lr=0.01")))


@pytest.mark.parametrize("content", [[], {}, {"val": "x", "points": 5}, {"val": "x", "points": {"1": {}}}])
def test_a_curve_edited_by_hand_is_a_sentence(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path, content: Any
) -> None:
    plan = replace(made[0], out=tmp_path / "out")
    shutil.copytree(made[0].out, plan.out)
    for path in (plan.out / "retention").glob("*/curve.json"):
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"curve\.json: its entries are not as cckt writes them"):
        ablate("retention", plan)


def test_a_training_with_stops_has_the_weights_of_one_without(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = made
    data = (plan.out / "train", plan.out / "held-out")
    config = retention.run_config(plan.out / "retention" / "base-0")
    retention.train(config, *data, tmp_path / "whole", max_steps=4)
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert whole == (plan.out / "retention" / "base-0" / "model.safetensors").read_bytes()
    train = retention.train
    monkeypatch.setattr(
        retention, "train", lambda *args, **options: train(*args, **options) | {"stopped": "SIGTERM"}
    )
    with pytest.raises(Interrupted, match="run the same command to continue"):
        retention.curve(config, *data, tmp_path / "stopped", (1, 2), Silent())
    monkeypatch.setattr(retention, "train", train)
    points = retention.curve(config, *data, tmp_path / "stopped", (1, 2), Silent())
    assert [*points] == ["1", "2"]
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == whole


def test_a_mark_that_was_passed_is_refused(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan, _ = made
    run = plan.out / "retention" / "base-0"
    known = json.loads((run / "curve.json").read_text())
    (run / "curve.json").write_text(json.dumps({**known, "points": {"2": known["points"]["2"]}}))
    data = (plan.out / "train", plan.out / "held-out")
    try:
        with pytest.raises(UserError, match="was evaluated at epoch 2 but not at 1, which its training has"):
            retention.curve(retention.run_config(run), *data, run, (1, 2), Silent())
        with pytest.raises(UserError, match="its --val was another data set"):
            retention.curve(retention.run_config(run), data[0], data[0], run, (1, 2), Silent())
    finally:
        (run / "curve.json").write_text(json.dumps(known))


def test_the_rate_is_constant_after_the_warm_up() -> None:
    for name in ("shapeworld-hdovd", "hdovd-coco-adamixer-r50"):
        config = constant_rate(recipe(name), 32).train
        after = {rate_at(step, 10, config) for step in range(config.warmup_steps, 10_000)}
        assert after == {1.0}
        longer = constant_rate(recipe(name), 64).train
        assert all(rate_at(step, 10, config) == rate_at(step, 10, longer) for step in range(400))


def test_checks_name_the_best_epoch_and_what_was_lost() -> None:
    def row(label: str, values: list[float | None]) -> dict[str, Any]:
        return {
            "label": label,
            "points": {str(2**k): {"ap50_novel": value} for k, value in enumerate(values)},
        }

    found = retention_checks(
        [
            row("falls", [0.1, 0.4, 0.3]),
            row("rises", [0.1, 0.2, 0.3]),
            row("dips", [0.2, 0.1, 0.3]),
            row("none", []),
        ]
    )
    assert found == {
        "falls": {"best_epoch": 2, "lost": pytest.approx(0.1), "falls": True},
        "rises": {"best_epoch": 4, "lost": 0, "falls": False},
        "dips": {"best_epoch": 4, "lost": 0, "falls": True},
    }
    said = sentences({"table": "retention", "checks": found})
    assert said[0] == "falls, AP50 novel: its last epoch is 10.0 points below its best, epoch 2"
    assert said[2] == "dips, AP50 novel: its last epoch is its best, though the curve falls before"
    assert sentences({"table": "retention", "checks": {}}) == ["no row is measured yet"]


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    plan = AblationPlan(tmp_path, recipe="shapeworld-hdovd")
    with pytest.raises(UserError, match="--epochs does not apply to retention"):
        check_marks(replace(plan, epochs=4))
    for marks in ((), (0, 2)):
        with pytest.raises(UserError, match="expected epochs of at least 1"):
            check_marks(replace(plan, at=marks))
    with pytest.raises(UserError, match="--at applies only to the table retention"):
        ablate("options", replace(plan, at=(1,)))
