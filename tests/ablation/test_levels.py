"""The table of levels: rows as options, columns that it makes, tiny runs, resuming, messages."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cckt.ablation import AblationPlan, ablate, levels, runs
from cckt.ablation.level_page import level_checks, level_sentences
from cckt.ablation.level_rows import CLASS, IMAGE, INSTANCE, level_rows
from cckt.ablation.page import command, page, rows, sentences
from cckt.ablation.plan import differences
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.cache_builder.proposals import open_proposals
from cckt.detector.config.config import Config
from cckt.detector.config.recipes import RECIPES, in_epochs, recipe
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.runs.run_folder import run_config
from tests.ablation.plans import TWO_PROPOSALS, plan_with_words
from tests.commands.front import cckt

KEYS = ["base", "pseudo-boxes", "instance", "class", "image", "all", "cckt", "hybrid"]
PRIORS = ["cckt-priors", "hybrid-priors"]
TINY = (*TWO_PROPOSALS, "train.checkpoint_every=2")
HD_OVD = [name for name in RECIPES if "hdovd" in name or "hybrid" in name]


def plan_of(name: str, **more: Any) -> AblationPlan:
    return AblationPlan(Path("out"), recipe=name, **more)


def configs_of(plan: AblationPlan) -> dict[str, Config]:
    return {row.key: row.config for row in level_rows(plan)}


# Rows


@pytest.mark.parametrize("name", HD_OVD)
def test_rows_of_every_recipe_have_its_student_photos_and_training(name: str) -> None:
    full = recipe(name)
    found = configs_of(plan_of(name))
    assert list(found) == KEYS
    for key, config in found.items():
        assert config.train == full.train
        assert config.data == replace(full.data, proposals=config.data.proposals)
        assert config.data.proposals == (0 if key in ("base", "cckt") else full.data.proposals)
        heads = ("objectness", "text_projector", "relation_head", "image_head")
        assert replace(config.model, **dict.fromkeys(heads, False)) == replace(
            full.model, **dict.fromkeys(heads, False)
        )
        assert config.inference.prior_weight == 0
        for term, options in config.terms.items():
            for head in options.heads if options.weight else ():
                assert getattr(config.model, head), f"{key}: {term} lacks {head}"
    on = {
        key: [term for term, options in config.terms.items() if options.weight]
        for key, config in found.items()
    }
    assert on["base"] == on["pseudo-boxes"] == []
    assert on["instance"] == list(INSTANCE)
    assert on["image"] == list(IMAGE)
    assert on["class"] == [term for term in CLASS if full.model.student != "faster_rcnn" or term == CLASS[0]]
    assert on["all"] == on["instance"] + on["class"] + on["image"]
    assert on["cckt"] == ["region_contrast"]
    assert on["hybrid"] == ["region_contrast", "novel_aware_classes"]


def test_rows_are_the_recipes_of_both_methods() -> None:
    ours = configs_of(plan_of("shapeworld-hdovd"))
    assert ours["all"] == recipe("shapeworld-hdovd")
    unread = {
        "terms.novel_aware_classes.noun_weight": "fitted",
        "terms.text_relation.noun_weight": "fitted",
        "data.min_proposal_side": 12.0,
    }
    unweighed = {"inference.prior_weight": 0.0}
    assert differences(recipe("shapeworld-fast"), ours["cckt"]) == unread | unweighed
    other = "terms.text_relation.noun_weight"
    assert differences(recipe("shapeworld-hybrid"), ours["hybrid"]) == unweighed | {other: "fitted"}
    hybrid = configs_of(plan_of("shapeworld-hybrid"))
    assert differences(recipe("shapeworld-hybrid"), hybrid["hybrid"]) == unweighed
    assert differences(ours["all"], hybrid["all"]) == {}
    weights = {row.key: row.prior_weight for row in level_rows(plan_of("shapeworld-hdovd"))}
    assert weights == dict.fromkeys(KEYS, 0.0) | {"cckt": 0.5, "hybrid": 0.5}
    unguided = level_rows(plan_of("shapeworld-hdovd-adamixer"))
    assert not any(row.prior_weight or row.config.guidance.enabled for row in unguided)


def test_the_options_of_a_plan_reach_every_row() -> None:
    options = ("inference.nms=0.3", "terms.novel_aware_classes.weight=0.25")
    found = configs_of(replace(plan_of("shapeworld-hdovd"), overrides=options))
    assert {config.inference.nms for config in found.values()} == {0.3}
    weights = {key: config.terms["novel_aware_classes"].weight for key, config in found.items()}
    assert weights == dict.fromkeys(KEYS, 0.0) | dict.fromkeys(("class", "all", "hybrid"), 0.25)
    adamixer = configs_of(plan_of("hdovd-coco-adamixer-r50"))
    assert len({(config.inference.nms, config.inference.top) for config in adamixer.values()}) == 1


def test_scores_read_what_a_row_trains() -> None:
    shared = configs_of(plan_of("shapeworld-hdovd"))
    assert {key: config.inference.classification for key, config in shared.items()} == {
        **dict.fromkeys(("base", "pseudo-boxes", "instance", "image"), "head"),
        **dict.fromkeys(("class", "all", "hybrid"), "fusion"),
        "cckt": "similarity",
    }
    assert shared["class"].loss.loss_class == 0 < shared["instance"].loss.loss_class
    separate = configs_of(plan_of("shapeworld-hdovd-fasterrcnn"))
    assert separate["instance"].inference.classification == "product"
    scoring = separate["class"].inference
    assert (scoring.classification, scoring.fusion_alpha, scoring.fusion_beta) == ("fusion", 0, 0)


def test_epochs_and_options_reach_every_row() -> None:
    plan = plan_of("hdovd-coco-adamixer-r50", epochs=6, overrides=("train.lr=1e-3", "prior.limit=4"))
    for config in configs_of(plan).values():
        train = config.train
        assert (train.epochs, train.lr_drop_epoch, train.lr_second_drop_epoch, train.lr) == (6, 4, 5, 1e-3)
    assert configs_of(plan)["all"].terms["image_contrast"].first_epoch == 0
    assert configs_of(plan)["cckt"].terms["region_contrast"].first_epoch == 5
    halved = in_epochs(recipe("hdovd-coco-deformable-r50"), 18)
    assert halved.terms["instance_contrast"].first_epoch == 2
    weighed = configs_of(plan_of("shapeworld-hdovd", overrides=("terms.instance_contrast.weight=0.1",)))
    assert weighed["instance"].terms["instance_contrast"].weight == 0.1
    assert weighed["cckt"].terms["instance_contrast"].weight == 0


@pytest.mark.parametrize(
    ("name", "options"), [("shapeworld", ()), ("shapeworld-hdovd", ("data.proposals=0",))]
)
def test_a_recipe_without_levels_is_refused(name: str, options: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"--recipe {name}: found data.proposals 0 .* such as --recipe"):
        level_rows(plan_of(name, overrides=options))


# The command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[AblationPlan, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("levels")
    sizes = {"seeds": 2, "photos": 8, "held_out": 6, "top": 5}
    plan = plan_with_words(folder, recipe="shapeworld-hdovd", overrides=TINY, **sizes)
    return plan, ablate("levels", plan)


def test_the_table_has_every_row_and_the_novel_objects(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan, answer = made
    assert [row["key"] for row in answer["rows"]] == KEYS + PRIORS
    held_out = open_index(plan.out / "held-out")
    is_novel = np.isin(held_out.box_concepts, held_out.concepts.rows("novel"))
    novel = int((is_novel & ~held_out.iscrowd).sum())
    for row in answer["rows"]:
        assert len(row["runs"]) == 2
        assert row["ap50_base"] == pytest.approx(sum(run["ap50_base"] for run in row["runs"]) / 2)
        assert row["novel_objects"] == novel > 0
        counts = [row[f"novel_{name}"] for name in ("base", "novel", "correct")]
        assert sum(counts) == row["novel_selected"] <= row["novel_recalled"] <= novel
    assert answer == json.loads((plan.out / "levels.json").read_text())
    text = (plan.out / "levels.md").read_text()
    assert text == page(answer)
    assert f"novel objects of {novel}: recalled" in text
    assert "* base detector: " in text
    assert "--nouns-from words.txt" in answer["command"]
    assert "--photos 8" in command("levels", replace(plan, run=Path("runs/base")))
    assert str(plan.out) not in text


def test_rows_with_priors_score_the_same_training(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan, answer = made
    known = {row["key"]: row for row in answer["rows"]}
    for key in ("cckt", "hybrid"):
        run = plan.out / "levels" / f"{key}-1"
        assert run_config(run).inference.prior_weight == 0
        weighed = evaluate_run(
            run, plan.out / "held-out", overrides=["inference.prior_weight=0.5"], out=plan.out / "weighed"
        ).as_dict()
        shutil.rmtree(plan.out / "weighed")
        again = known[f"{key}-priors"]["runs"][1]
        assert again["ap50_base"] == pytest.approx(weighed["ap50_base"], abs=1e-9)
        for name in levels.COUNTS:
            assert again[f"novel_{name}"] == weighed["figures"]["novel_objects"][name]


def test_the_columns_come_from_a_short_base_run(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan, _ = made
    proposer = run_config(plan.out / "levels" / "proposer")
    assert proposer == levels.proposer_config(level_rows(plan))
    index = open_index(plan.out / "train")
    table = open_proposals(plan.out / "train", index)
    assert 0 < len(table) <= 5 * len(index)
    eight = level_rows(plan_of("shapeworld-hdovd"))
    assert levels.proposer_config(eight).train.epochs == 4


def test_a_second_call_trains_nothing(
    made: tuple[AblationPlan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, answer = made
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("expected no training"))
    monkeypatch.setattr(levels, "detect_variants", lambda *_: pytest.fail("expected kept figures"))
    assert ablate("levels", plan)["rows"] == answer["rows"]


def test_a_stopped_table_resumes_to_the_same_figures(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(made[0], out=tmp_path / "out", seeds=1)
    shutil.copytree(made[0].out / "train", plan.out / "train")
    shutil.copytree(made[0].out / "held-out", plan.out / "held-out")
    shutil.rmtree(plan.out / "train" / "proposals")
    original, calls = runs.train, []

    def killed(config: Config, *given: Any, **options: Any) -> dict[str, Any]:
        calls.append(given[-1].name)
        if calls[-1] in ("proposer", "class-0") and calls.count(calls[-1]) == 1:
            original(config, *given, **options, stop_after=2)
            raise KeyboardInterrupt
        return original(config, *given, **options)

    monkeypatch.setattr(runs, "train", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ablate("levels", plan)
    answer = ablate("levels", plan)
    assert calls == ["proposer", "proposer", *(f"{key}-0" for key in KEYS[:4] + KEYS[3:])]
    for row, known in zip(answer["rows"], made[1]["rows"], strict=True):
        for figure in ("ap50_base", "ap50_novel", "novel_objects"):
            assert row["runs"][0][figure] == known["runs"][0][figure], row["key"]


def test_the_command_shows_the_table(
    made: tuple[AblationPlan, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _ = made
    words = ["ablate", "levels", "--seeds", 2, "--photos", 8, "--held-out", 6, "--top", 5, "--out", plan.out]
    words += ["--nouns-from", plan.nouns_from, *(word for one in TINY for word in ("--set", one))]
    outcome = cckt(capsys, *words)
    assert outcome.code == 0, outcome.err
    for part in ("base detector", "hybrid of both", "levels.md", "the hybrid is above HD-OVD and CCKT-Det: "):
        assert part in outcome.out, part


def test_user_errors(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _ = made
    sentence = cckt(capsys, "ablate", "levels", "--recipe", "shapeworld", "--out", tmp_path / "o").sentence()
    assert "expected both above 0" in sentence
    sentence = cckt(
        capsys, "ablate", "table4", "--nouns-from", "words.txt", "--out", tmp_path / "o"
    ).sentence()
    assert "--nouns-from applies only to the tables levels, retention and finetune" in sentence
    named = ["--train", plan.out / "train", "--val", plan.out / "held-out", "--out", tmp_path / "o"]
    sentence = cckt(capsys, "ablate", "levels", *named, "--nouns-from", plan.nouns_from).sentence()
    assert "--nouns-from makes columns of a rendered shapeworld" in sentence
    lacking = ["--train", plan.out / "held-out", "--val", plan.out / "held-out", "--out", tmp_path / "o"]
    assert cckt(capsys, "ablate", "levels", *lacking).sentence().startswith("base detector: ")
    assert not (tmp_path / "o" / "levels").exists()


# Sentences


def table(**novel: float | None) -> list[dict[str, Any]]:
    return [
        {"key": key, "label": key, "ap50_novel": novel.get(key.replace("-", "_")), "ap50_base": 0.5}
        for key in (*KEYS, *PRIORS)
    ]


def test_sentences_compare_the_rows() -> None:
    values = dict(zip((*KEYS, *PRIORS), (0.1, 0.12, 0.2, 0.3, 0.15, 0.4, 0.25, 0.45, 0.3, 0.5), strict=True))
    values = {key.replace("-", "_"): value for key, value in values.items()}

    def lines(**other: float | None) -> list[str]:
        known = table(**(values | other))
        return sentences({"table": "levels", "rows": known, "checks": level_checks(known)})

    assert "pseudo-boxes: +2.0 points of AP50 novel over the base detector" in lines()[0]
    for sentence in (
        "every level alone adds AP50 novel",
        "all levels together are above each alone",
        "HD-OVD is above CCKT-Det",
        "the hybrid is above HD-OVD and CCKT-Det",
    ):
        assert f"{sentence}: yes" in lines()
    assert "the hybrid's AP50 novel is 1.00 of its AP50 base" in lines()
    assert "every level alone adds AP50 novel: no" in lines(image=0.1)
    assert "all levels together are above each alone: no" in lines(all=0.3)
    assert "HD-OVD is above CCKT-Det: no" in lines(cckt=0.4)
    assert "the hybrid is above HD-OVD and CCKT-Det: no" in lines(hybrid=0.4)
    assert lines(image=None) == ["some rows are not measured yet"]
    unguided = [row for row in table(**values) if row["key"] in KEYS]
    assert level_checks(unguided)["novel_of_base"] == pytest.approx(0.9)
    assert level_sentences({"rows": [], "checks": level_checks([])}, str)[0].endswith(": no")


def test_an_unfinished_table_is_shown() -> None:
    known = table()
    for row in known:
        row |= {"runs": []}
    head, first, *_ = rows({"table": "levels", "rows": known})
    assert len(head) == len(first) == 9
    assert first[1:] == ["–", "50.0", "–", "–", "–", "–", "–", "–"]
