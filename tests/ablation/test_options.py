"""The table of options: rows next to the recipe, scored under several kinds of guidance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cckt.ablation import AblationPlan, ablate, options
from cckt.ablation.page import page, sentences
from cckt.ablation.runs import FIGURES
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.detector.config.config import Config, changed
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.runs.run_folder import run_config
from tests.commands.front import SMALL

OPTIONS = (*SMALL, "prior.rho=0.1", "inference.prior_weight=1")
ROWS = ("guidance.order=row", "guidance.none=0.5 guidance.priors=0.5")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[AblationPlan, dict[str, Any]]:
    out = tmp_path_factory.mktemp("ablation") / "out"
    plan = AblationPlan(out, photos=8, held_out=6, overrides=OPTIONS, rows=ROWS, seeds=2)
    return plan, ablate("options", plan)


def test_rows_are_compared_with_the_recipe_and_under_every_guidance(
    made: tuple[AblationPlan, dict[str, Any]],
) -> None:
    plan, answer = made
    assert [row["label"] for row in answer["rows"]] == ["the recipe", *ROWS]
    full = plan.config()
    for row, place in zip(
        answer["rows"],
        ("options/recipe", "options/guidance.order=row", f"options/{ROWS[1].replace(' ', '+')}"),
        strict=True,
    ):
        run = plan.out / f"{place}-1"
        config = run_config(run)
        assert config.guidance.order == ("row" if row["key"] == ROWS[0] else "shuffled")
        assert config.guidance.none == (0.5 if row["key"] == ROWS[1] else 0)
        config = changed(config, "guidance", order="shuffled", none=0.0, priors=0.0)
        assert changed(config, "train", seed=0) == full
        for name in options.GUIDANCE:
            source = "clip" if name == "own" else name
            no_weight = ["inference.prior_weight=0"]
            expected = evaluate_run(run, plan.out / "held-out", priors=source, overrides=no_weight).as_dict()
            assert row["runs"][1][f"{name}_ap50_base"] == pytest.approx(expected["ap50_base"], abs=1e-6)
        assert row["oracle_ap50_novel"] == pytest.approx(
            sum(one["oracle_ap50_novel"] for one in row["runs"]) / 2
        )
    assert (plan.out / "train" / "priors" / "clip").is_dir(), (
        "expected priors for a row that trains with them"
    )
    assert answer["checks"]["rows"][0]["base"]["added"] == 0
    text = (plan.out / "options.md").read_text()
    assert text == page(json.loads((plan.out / "options.json").read_text()))
    assert "| guided by priors | by annotations | by corrupted ones | unguided |" in text
    assert "--row guidance.order=row" in answer["command"]
    assert "points over the recipe" in sentences(answer)[1]


def test_figures_under_guidance_are_computed_once(
    made: tuple[AblationPlan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, first = made
    monkeypatch.setattr(options, "detect_variants", lambda *_: pytest.fail("expected kept figures"))
    assert ablate("options", plan)["rows"] == first["rows"]


def test_a_row_that_cannot_be_evaluated_fails_before_the_first_training(
    made: tuple[AblationPlan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(made[0], rows=("train.lr=1e-4", "prior.source=mllm"))
    monkeypatch.setattr(options, "finish_run", lambda *_: pytest.fail("expected no training"))
    with pytest.raises(UserError, match=r"^prior.source=mllm: .*priors/mllm"):
        ablate("options", plan)


def test_figures_of_other_inputs_are_computed_again(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    run, val = made[0].out / "options" / "recipe-0", made[0].out / "held-out"
    kept = run / "leaning.json"
    before = kept.read_text()
    known = json.loads(before)
    for key, other in (("weights", "of before"), ("index", "another"), ("corrupted", [0.5, 1])):
        figures = {**known["figures"], "own_ap50_base": 7.0}
        kept.write_text(json.dumps({"about": {**known["about"], key: other}, "figures": figures}))
        assert options.guidance_figures(run, val, Silent()) == known["figures"]
        assert kept.read_text() == before


def test_figures_edited_by_hand_are_computed_again(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    run, val = made[0].out / "options" / "recipe-0", made[0].out / "held-out"
    kept = run / "leaning.json"
    before = kept.read_text()
    known = json.loads(before)
    edited = {**known, "figures": {**known["figures"], "own_ap50_base": 7.0}}
    for content in (edited, {**edited, "figures": 5}, {"about": known["about"]}, [], 5):
        kept.write_text(json.dumps(content))
        assert options.guidance_figures(run, val, Silent()) == known["figures"]
        assert kept.read_text() == before


def test_every_row_has_a_unique_folder_name() -> None:
    assert options.folder_name("train.lr=1e-3 data.flip=0") == "train.lr=1e-3+data.flip=0"
    long = "train.lr=1 " * 60
    rows = ("weights=a/b", "weights=a:b", "weights=a+b", "weights=a b", long, long + "data.flip=0")
    names = [options.folder_name(row) for row in rows]
    assert len(set(names)) == len(rows)
    assert max(map(len, names)) <= options.LONGEST + 9
    assert not any("/" in name or ":" in name for name in names)


def test_sentences_of_options() -> None:
    from cckt.ablation.page import _effects

    def row(label: str, runs: list[tuple[float, float | None]], **means: float | None) -> dict[str, Any]:
        known: dict[str, float | None] = {
            "own_ap50_base": 0.6,
            "own_ap50_novel": 0.4,
            "oracle_ap50_base": 0.8,
            "oracle_ap50_novel": 0.5,
        }
        known |= {"none_ap50_base": 0.4, "none_ap50_novel": 0.1}
        return {
            "label": label,
            "runs": [{"ap50_base": base, "ap50_novel": novel} for base, novel in runs],
            **known,
            **means,
        }

    def lines(*rows: dict[str, Any]) -> list[str]:
        return sentences({"table": "options", "rows": rows, "checks": _effects(list(rows))})

    recipe_row = row("the recipe", [(0.6, 0.4), (0.7, 0.5)])
    first, second = lines(recipe_row, row("a=1", [(0.7, 0.4), (0.9, None)], none_ap50_novel=None))
    assert first == (
        "the recipe: with annotations instead of priors +20.0 / +10.0 points; unguided 50.0 / 20.0% of AP50 "
        "with annotations"
    )
    assert second.startswith("a=1: +15.0 ± 7.1 / +0.0 points over the recipe; with annotations instead of")
    assert second.endswith("unguided 50.0 / –% of AP50 with annotations")
    unfinished = {"label": "b=2", "runs": []}
    assert lines(recipe_row, row("a=1", [(0.7, 0.4)]), unfinished)[1].startswith("a=1: +10.0 / +0.0 points")
    assert len(lines(recipe_row, unfinished)) == 1


def test_the_recipe_shares_the_run_of_table4_if_their_options_are_the_same(
    made: tuple[AblationPlan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def fake(config: Config, train_data: Path, val: Path, run: Path, progress: Progress) -> dict[str, Any]:
        places.append(run.relative_to(made[0].out).as_posix())
        return dict.fromkeys((*FIGURES, "seconds"), 0.0)

    monkeypatch.setattr(options, "finish_run", fake)
    monkeypatch.setattr(options, "guidance_figures", lambda *_: dict.fromkeys(options.GUIDANCE_FIGURES, 0.0))
    monkeypatch.setattr(options, "save", lambda *_: None)
    row = ("guidance.order=row",)
    ablate("options", replace(made[0], rows=row, seeds=1))
    own = (*OPTIONS, "model.class_embedding=own")
    ablate("options", replace(made[0], rows=row, seeds=1, overrides=own))
    of_row = "options/guidance.order=row-0"
    assert places == ["options/recipe-0", of_row, "table4/all-0", of_row]
