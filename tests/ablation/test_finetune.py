"""The table of fine-tuning: data with new classes only, runs that start from others, groups of concepts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cckt.ablation import AblationPlan, ablate, finetune
from cckt.ablation.finetune import GROUPS, NEW, groups, split
from cckt.ablation.page import page, rows, sentences
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.cache_builder.mllm import default_model
from cckt.cache_builder.proposals import open_proposals
from cckt.cache_builder.proposals.leak import provenances_of
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.runs.run_folder import Facts, run_config
from cckt.shapeworld.pictographs import BASE, NOVEL
from tests.ablation.plans import TWO_PROPOSALS, plan_with_words
from tests.commands.front import SMALL


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[AblationPlan, dict[str, Any]]:
    out = tmp_path_factory.mktemp("finetune") / "out"
    plan = AblationPlan(out, seeds=1, photos=12, held_out=8, overrides=(*SMALL,), rows=("train.lr=1e-5",))
    return plan, ablate("finetune", plan)


def test_the_split_has_new_classes_and_words_without_boxes() -> None:
    found = split()
    assert len(found["base"]) == NEW
    assert sorted(found["base"] + found["novel"]) == sorted(NOVEL)
    assert found["other"] == sorted(BASE)
    assert not {*found["base"]} & {*found["novel"]}


def test_new_data_have_boxes_of_new_classes_only(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan, _ = made
    index = open_index(plan.out / "new-classes")
    names = {index.concepts[int(row)].name for row in index.box_concepts}
    assert names
    assert names <= set(split()["base"])
    assert index.digest != open_index(plan.out / "train").digest
    assert default_model(index.folder) == "shapeworld"  # names its regions, as those of the rendered data


def test_rows_start_from_their_method_and_are_scored_by_group(
    made: tuple[AblationPlan, dict[str, Any]],
) -> None:
    plan, answer = made
    assert [row["label"] for row in answer["rows"]] == ["plain detector", "the recipe", "train.lr=1e-5"]
    for row in answer["rows"]:
        name = row["key"] if row["key"] in ("plain", "recipe") else "train.lr=1e-5"
        run = plan.out / "finetune" / f"{name}-0"
        start = "plain" if row["key"] == "plain" else "recipe"
        facts = Facts.load(run)
        assert facts.names == split()["base"]
        assert [maker.name for maker in facts.makers] == [f"start-{start}-0"]
        evaluation = evaluate_run(run, plan.out / "held-out").as_dict()
        for group, value in groups(evaluation).items():
            known = row[f"after_{group}"]
            assert known is value is None or known == pytest.approx(value, abs=1e-6)
        before = evaluate_run(plan.out / "finetune" / f"start-{start}-0", plan.out / "held-out").as_dict()
        assert row["before_old_base"] == pytest.approx(before["ap50_base"], abs=1e-6)
    assert run_config(plan.out / "finetune" / "train.lr=1e-5-0").train.lr == 1e-5
    assert run_config(plan.out / "finetune" / "plain-0").guidance.enabled is False
    text = (plan.out / "finetune.md").read_text()
    assert text == page(answer) == page(json.loads((plan.out / "finetune.json").read_text()))
    head, *body = rows(answer)
    assert head == ["AP50 before → after, 1 seed", "old classes", "new classes", "never annotated"]
    assert len(body) == len(sentences(answer)) == 3
    assert "--row train.lr=1e-5" in answer["command"]


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> tuple[AblationPlan, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hybrid")
    sizes = {"seeds": 1, "photos": 6, "held_out": 4, "top": 3}
    plan = plan_with_words(folder, recipe="shapeworld-hybrid", overrides=TWO_PROPOSALS, **sizes)
    return plan, ablate("finetune", plan)


def test_a_recipe_with_proposals_reads_regions_of_both_data_sets(
    hybrid: tuple[AblationPlan, dict[str, Any]],
) -> None:
    plan, answer = hybrid
    assert [row["label"] for row in answer["rows"]] == ["plain detector", "the recipe"]
    for data in ("train", "new-classes"):
        index = open_index(plan.out / data)
        assert 0 < len(open_proposals(plan.out / data, index)) <= 3 * len(index)
        maker = provenances_of(plan.out / data, "proposals/boxes")["proposals/boxes"]
        assert set(maker.concepts) == set(BASE)  # the plain detector has seen the old classes only
    plain, recipe = (run_config(plan.out / "finetune" / f"{name}-0") for name in ("plain", "recipe"))
    assert (plain.data.proposals, recipe.data.proposals) == (0, 2)
    assert plain == run_config(plan.out / "finetune" / "start-plain-0")
    assert not any(term.weight for term in plain.terms.values())
    assert recipe.trains_cckt
    assert [one.name for one in Facts.load(plan.out / "finetune" / "recipe-0").makers] == ["start-recipe-0"]
    assert "--top 3 --nouns-from words.txt" in answer["command"]


def test_options_of_proposals_need_a_recipe_that_reads_them(tmp_path: Path) -> None:
    plan = AblationPlan(tmp_path / "out", overrides=(*SMALL,), top=3)
    with pytest.raises(UserError, match="--top makes proposals, but --recipe shapeworld reads none"):
        finetune.finetune_table(plan, print, None)  # type: ignore[arg-type]
    assert not plan.out.exists()


def test_a_finished_table_trains_nothing(
    made: tuple[AblationPlan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, answer = made

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr("cckt.ablation.runs.train", refuse)
    assert ablate("finetune", plan)["rows"] == answer["rows"]


def test_groups_are_means_over_concepts_with_a_box() -> None:
    old, new, never = sorted(BASE)[0], split()["base"][0], split()["novel"][0]
    figures = [(old, 0.2), (sorted(BASE)[1], 0.4), (new, 0.6), (never, None)]
    evaluation = {"per_concept": [{"name": name, "ap50": value} for name, value in figures]}
    found = groups(evaluation)
    assert found == {"old_base": pytest.approx(0.3), "new_base": pytest.approx(0.6), "never": None}
    assert list(found) == list(GROUPS)


def test_own_data_are_refused(tmp_path: Path) -> None:
    plan = AblationPlan(tmp_path / "out", overrides=(*SMALL,))
    with pytest.raises(UserError, match="--train and --val do not apply to finetune"):
        finetune.finetune_table(replace(plan, train=tmp_path, val=tmp_path), print, None)  # type: ignore[arg-type]
