"""Rows of options: beside the recipe, under other priors than their own, asked once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cckt.ablation import Plan, ablate, options
from cckt.ablation.page import page, sentences
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.detector.config.config import changed
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.runs.run_folder import run_config
from tests.commands.front import SMALL

OPTIONS = (*SMALL, "prior.rho=0.1", "inference.prior_weight=1")
ROWS = ("guidance.order=row", "guidance.none=0.5 guidance.priors=0.5")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Any]]:
    out = tmp_path_factory.mktemp("ablation") / "out"
    plan = Plan(out, photos=8, held_out=6, overrides=OPTIONS, rows=ROWS, seeds=2)
    return plan, ablate("options", plan)


def test_options_stand_beside_the_recipe_and_under_other_priors(made: tuple[Plan, dict[str, Any]]) -> None:
    plan, answer = made
    assert [row["label"] for row in answer["rows"]] == ["the recipe", *ROWS]
    full = plan.config()
    for row, place in zip(
        answer["rows"],
        ("table4/all", "options/guidance.order=row", f"options/{ROWS[1].replace(' ', '+')}"),
        strict=True,
    ):
        run = plan.out / f"{place}-1"
        config = run_config(run)
        assert config.guidance.order == ("row" if row["key"] == ROWS[0] else "shuffled")
        assert config.guidance.none == (0.5 if row["key"] == ROWS[1] else 0)
        assert changed(config, "train", guidance_order="shuffled", guidance_none=0.0,
                       guidance_priors=0.0, seed=0) == full  # fmt: skip
        for name in options.TOLD:
            source = "clip" if name == "own" else name
            unweighed = ["inference.prior_weight=0"]
            alone = evaluate_run(run, plan.out / "held-out", priors=source, overrides=unweighed).as_dict()
            assert row["runs"][1][f"{name}_ap50_base"] == pytest.approx(alone["ap50_base"], abs=1e-6)
        assert row["oracle_ap50_novel"] == pytest.approx(
            sum(one["oracle_ap50_novel"] for one in row["runs"]) / 2
        )
    assert (plan.out / "train" / "priors" / "clip").is_dir(), "a row that heeds priors in training gets them"
    assert answer["checks"]["rows"][0]["base"]["added"] == 0
    text = (plan.out / "options.md").read_text()
    assert text == page(json.loads((plan.out / "options.json").read_text()))
    assert "| told its priors | the truth | it corrupted | nothing |" in text
    assert "--row guidance.order=row" in answer["command"]
    assert "points over the recipe" in sentences(answer)[1]


def test_options_are_asked_once(made: tuple[Plan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, first = made
    monkeypatch.setattr(options, "asked", lambda *_: pytest.fail("was asked before"))
    assert ablate("options", plan)["rows"] == first["rows"]


def test_a_row_that_cannot_be_measured_is_known_before_the_first_training(
    made: tuple[Plan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(made[0], rows=("train.lr=1e-4", "prior.source=mllm"))
    monkeypatch.setattr(options, "trained", lambda *_: pytest.fail("was trained"))
    with pytest.raises(UserError, match=r"^prior.source=mllm: .*priors/mllm"):
        ablate("options", plan)


def test_another_answer_is_asked_for_anew(made: tuple[Plan, dict[str, Any]]) -> None:
    run, val = made[0].out / "table4" / "all-0", made[0].out / "held-out"
    kept = run / "leaning.json"
    before = kept.read_text()
    known = json.loads(before)
    for key, other in (("weights", "of before"), ("index", "another"), ("corrupted", [0.5, 1])):
        figures = {**known["figures"], "own_ap50_base": 7.0}
        kept.write_text(json.dumps({"about": {**known["about"], key: other}, "figures": figures}))
        assert options.leaning(run, val, Silent()) == known["figures"]
        assert kept.read_text() == before


def test_a_rows_folder_is_its_own_however_long_or_odd_the_row() -> None:
    assert options.folder_name("train.lr=1e-3 data.flip=0") == "train.lr=1e-3+data.flip=0"
    long = "train.lr=1 " * 60
    rows = ("weights=a/b", "weights=a:b", "weights=a+b", "weights=a b", long, long + "data.flip=0")
    names = [options.folder_name(row) for row in rows]
    assert len(set(names)) == len(rows)
    assert max(map(len, names)) <= options.LONGEST + 9
    assert not any("/" in name or ":" in name for name in names)


def test_what_options_owe_to_what_they_are_told_is_said() -> None:
    from cckt.ablation.page import _effects

    def row(label: str, runs: list[tuple[float, float | None]], **means: float | None) -> dict[str, Any]:
        told = {
            "own_ap50_base": 0.6,
            "own_ap50_novel": 0.4,
            "oracle_ap50_base": 0.8,
            "oracle_ap50_novel": 0.5,
        }
        told |= {"none_ap50_base": 0.4, "none_ap50_novel": 0.1}
        return {
            "label": label,
            "runs": [{"ap50_base": base, "ap50_novel": novel} for base, novel in runs],
            **told,
            **means,
        }

    def said(*rows: dict[str, Any]) -> list[str]:
        return sentences({"table": "options", "rows": rows, "checks": _effects(list(rows))})

    recipe_row = row("the recipe", [(0.6, 0.4), (0.7, 0.5)])
    first, second = said(recipe_row, row("a=1", [(0.7, 0.4), (0.9, None)], none_ap50_novel=None))
    assert first == (
        "the recipe: told the truth +20.0 / +10.0 points, told nothing 50.0 / 20.0% of AP50 told the truth"
    )
    assert second.startswith("a=1: +15.0 ± 7.1 / +0.0 points over the recipe; told the truth +20.0 / +10.0")
    assert second.endswith("told nothing 50.0 / –% of AP50 told the truth")
    unfinished = {"label": "b=2", "runs": []}
    assert said(recipe_row, row("a=1", [(0.7, 0.4)]), unfinished)[1].startswith("a=1: +10.0 / +0.0 points")
    assert len(said(recipe_row, unfinished)) == 1
