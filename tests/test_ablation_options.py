"""Rows of options: beside the recipe, under other priors than their own, asked once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ablation import Plan, ablate, options
from ablation.page import page, sentences
from detector.checkpoint import run_config
from detector.config import changed
from detector.evaluate import evaluate_run
from tests.front import SMALL

ROWS = ("train.guidance_order=row", "train.guidance_none=0.5 train.guidance_priors=0.5")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Any]]:
    out = tmp_path_factory.mktemp("ablation") / "out"
    plan = Plan(out, photos=8, held_out=6, overrides=(*SMALL, "prior.rho=0.1"), rows=ROWS, seeds=2)
    return plan, ablate("options", plan)


def test_options_stand_beside_the_recipe_and_under_other_priors(made: tuple[Plan, dict[str, Any]]) -> None:
    plan, answer = made
    assert [row["label"] for row in answer["rows"]] == ["the recipe", *ROWS]
    full = plan.config()
    for row, place in zip(
        answer["rows"],
        ("table4/all", "options/train.guidance_order=row", f"options/{ROWS[1].replace(' ', '+')}"),
        strict=True,
    ):
        run = plan.out / f"{place}-1"
        config = run_config(run)
        assert config.train.guidance_order == ("row" if row["key"] == ROWS[0] else "shuffled")
        assert config.train.guidance_none == (0.5 if row["key"] == ROWS[1] else 0)
        assert changed(config, "train", guidance_order="shuffled", guidance_none=0.0,
                       guidance_priors=0.0, seed=0) == full  # fmt: skip
        for source in ("oracle", "corrupted", "none"):
            alone = evaluate_run(run, plan.out / "held-out", priors=source).as_dict()
            assert row["runs"][1][f"{source}_ap50_base"] == pytest.approx(alone["ap50_base"], abs=1e-6)
        assert row["oracle_ap50_novel"] == pytest.approx(
            sum(one["oracle_ap50_novel"] for one in row["runs"]) / 2
        )
    assert (plan.out / "train" / "priors" / "clip").is_dir(), "a row that heeds priors in training gets them"
    assert answer["checks"]["rows"][0]["base"]["added"] == 0
    text = (plan.out / "options.md").read_text()
    assert text == page(json.loads((plan.out / "options.json").read_text()))
    assert "| true priors | corrupted ones | none |" in text
    assert "--row train.guidance_order=row" in answer["command"]
    assert "points over the recipe" in sentences(answer)[1]


def test_options_are_asked_once(made: tuple[Plan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, first = made
    monkeypatch.setattr(options, "infer", lambda *_, **__: pytest.fail("was asked before"))
    assert ablate("options", plan)["rows"] == first["rows"]


def test_what_options_owe_to_priors_is_said() -> None:
    from ablation.page import _effects

    figures = {"ap50_base": 0.6, "ap50_novel": 0.4, "oracle_ap50_base": 0.8, "oracle_ap50_novel": 0.5}
    recipe_row = {"label": "the recipe", **figures, "none_ap50_base": 0.4, "none_ap50_novel": 0.1}
    other = {**recipe_row, "label": "a=1", "ap50_base": 0.7, "none_ap50_novel": None}
    answer = {"table": "options", "rows": [recipe_row, other]}
    answer["checks"] = _effects(answer["rows"])
    first, second = sentences(answer)
    assert first == (
        "the recipe: +20.0 / +10.0 from its own priors to true ones; "
        "without any it keeps 50.0 / 20.0% of these"
    )
    assert second.startswith("a=1: +10.0 / +0.0 points over the recipe, +10.0 / +10.0 from its own")
    assert second.endswith("without any it keeps 50.0 / –% of these")
