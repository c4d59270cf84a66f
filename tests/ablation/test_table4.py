"""Tables 4 and 6 on a dozen photos, with students that take milliseconds: figures, stops, messages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cckt.ablation import AblationPlan, ablate, runs
from cckt.ablation.page import page, sentences
from cckt.ablation.plan import HELD_OUT, PHOTOS, ROWS
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.runner import Interrupted
from cckt.detector.config.config import Config, changed, save_config
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.evaluation.inference_loop import Variant
from cckt.detector.runs.file_digests import accept
from cckt.detector.runs.run_folder import run_config
from tests.ablation.plans import MICRO
from tests.commands.front import SMALL, cckt

OWN = {"photos": PHOTOS, "held_out": HELD_OUT}
"""Numbers of rendered photos that a plan with data of its own must leave alone."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[AblationPlan, dict[str, Any]]:
    plan = AblationPlan(tmp_path_factory.mktemp("ablation") / "out", seeds=2, **MICRO)
    return plan, ablate("table4", plan)


def test_table4_has_mean_spread_and_the_papers_figure(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan, answer = made
    written = json.loads((plan.out / "table4.json").read_text())
    assert written == json.loads(json.dumps(answer))
    assert [row["key"] for row in answer["rows"]] == [row.key for row in ROWS]
    for row, of in zip(answer["rows"], ROWS, strict=True):
        values = [run["ap50_base"] for run in row["runs"]]
        assert len(values) == 2
        assert row["ap50_base"] == pytest.approx(sum(values) / 2)
        assert row["ap50_base_spread"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        assert row["paper"] == of.paper
        config = run_config(of.run(plan.out, 1))
        assert row["runs"][1]["run"] == of.run(plan.out, 1).name
        assert config.train.seed == 1
        assert config.guidance.enabled == of.guidance
        assert (config.terms["region_contrast"].weight > 0) == of.contrast
        if not of.scored_from:
            assert config.inference.classification == ("similarity" if of.similarity else "head")
    assert answer["seconds"] == pytest.approx(sum(row["seconds"] for row in answer["rows"])) != 0
    text = (plan.out / "table4.md").read_text()
    assert text == page(written)
    for words in (
        answer["command"],
        "2 seeds",
        "| 25.4 |",
        "| 38.0 |",
        "guidance.enabled=false",
        "are one training, scored by the class head and by similarity",
    ):
        assert words in text, words
    assert str(plan.out) not in text, "expected only the names of folders outside the working folder"


def test_rows_3_and_5_of_table4_are_one_training_scored_in_two_ways(
    made: tuple[AblationPlan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, answer = made
    folders = {path.name for path in (plan.out / "table4").iterdir()}
    assert folders == {f"{name}-{seed}" for seed in (0, 1)
                       for name in ("plain", "guidance", "contrast-similarity", "all")}  # fmt: skip
    by_head, by_similarity = (answer["rows"][number]["runs"][1] for number in (2, 4))
    assert by_head["run"] == by_similarity["run"] == "all-1"
    assert by_head["seconds"] > 0, "expected the seconds of the scoring"
    run, held_out = plan.out / "table4" / "all-1", plan.out / "held-out"
    config = run_config(run)
    assert (config.model.class_embedding, config.inference.classification) == ("own", "similarity")
    head = evaluate_run(run, held_out, classification="head", out=plan.out / "head").as_dict()
    shutil.rmtree(plan.out / "head")
    own = json.loads((run / "metrics.json").read_text())["evaluation"]
    for figure in runs.FIGURES:
        assert by_head[figure] == pytest.approx(head[figure], abs=1e-9)
        assert by_similarity[figure] == own[figure]
    scoring = changed(config, "inference", classification="head").inference
    variants = [Variant("head", config.prior, scoring), Variant("own", config.prior, config.inference)]
    _, found = runs.detect_variants(run, held_out, variants, Silent())
    order = [found[name].category_ids.tolist() for name in ("head", "own")]
    assert order[0] != order[1], "expected another order of scores"
    monkeypatch.setattr(runs, "detect_variants", lambda *_: pytest.fail("expected kept figures"))
    assert runs.rescore(run, held_out, scoring, Silent()) == by_head


def test_a_run_of_other_options_is_named_with_them(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan = made[0]
    run = ROWS[-1].run(plan.out, 0)
    before = run_config(run)
    save_config(changed(before, "model", class_embedding="region"), run / "config.toml")
    accept(run)
    try:
        with pytest.raises(
            UserError, match=r"all-0: was begun with other options \(model.class_embedding=region"
        ):
            ablate("table4", plan)
    finally:
        save_config(before, run / "config.toml")
        accept(run)


def test_a_second_call_trains_nothing_and_more_seeds_only_the_new_runs(
    made: tuple[AblationPlan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, answer = made
    trained: list[str] = []
    known = json.loads((plan.out / "table4" / "all-0" / "metrics.json").read_text())

    def fake(config: Config, train_data: Path, val: Path, run: Path, **options: Any) -> dict[str, Any]:
        trained.append(run.name)
        shutil.copytree(plan.out / "table4" / "all-0", run)
        save_config(config, run / "config.toml")
        accept(run)
        return {**known, "stopped": ""}

    monkeypatch.setattr(runs, "train", fake)
    assert ablate("table4", plan)["rows"] == answer["rows"]
    assert trained == []
    assert [len(row["runs"]) for row in ablate("table4", replace(plan, seeds=3))["rows"]] == [3] * 5
    assert trained == ["plain-2", "guidance-2", "all-2", "contrast-similarity-2"]
    for name in trained:
        shutil.rmtree(plan.out / "table4" / name)
    ablate("table4", plan)  # restores the files for the other tests


def test_sentences_of_table4() -> None:
    def lines(*novel: float | None) -> list[str]:
        from cckt.ablation.page import _parts

        known = [{"label": row.label, "ap50_novel": value} for row, value in zip(ROWS, novel, strict=True)]
        return sentences({"table": "table4", "rows": known, "checks": _parts(known)})

    assert lines(0.1, 0.2, 0.3, None, 0.5) == ["some rows are not measured yet"]
    first, second = lines(0.1, 0.2, 0.3, 0.25, 0.5)
    assert "+40.0 points of AP50 novel over the plain detector (the paper: +12.6)" in first
    assert "+20.0 over the best other row, '+ guidance + contrast" in second
    assert "-10.0 points" in lines(0.2, 0.2, 0.3, 0.25, 0.1)[0]


def test_table6_scores_one_run_under_every_prior(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan = replace(made[0], limits=(2, 4), resamples=20)
    answer = ablate("table6", plan)
    assert answer["run"] == "all-0"
    cells = {(row["source"], row["fill"], row["rho"], row["limit"]) for row in answer["rows"]}
    assert {("clip", fill, rho, limit) for fill in ("random", "none") for rho in (0.1, 0.7, 0.9)
            for limit in (2, 4, 6)} < cells  # fmt: skip
    own = next(row for row in answer["rows"] if row["own"] and row["fill"] == "none")
    known = json.loads((plan.out / "table4" / "all-0" / "metrics.json").read_text())["evaluation"]
    for figure in ("ap50_novel", "ap50_base", "ap50_all"):
        assert own[figure] == pytest.approx(known[figure], abs=1e-6), (
            "expected the run's own figures with its own priors"
        )
    assert [pair["rho"] for pair in answer["higher_limit"]] == [0.1, 0.7, 0.9]
    by = {row["key"]: row for row in answer["rows"]}
    assert by["random 0.9 4"]["present_per_photo"] <= by["random 0.1 4"]["present_per_photo"] <= 4
    assert (by["true priors"]["present_per_photo"], by["no priors"]["present_per_photo"]) > (0.5, 0)
    text = (plan.out / "table6.md").read_text()
    assert "L 4 instead of 2 changes AP50 novel by" in text
    assert "| the annotations |" in text


def test_figures_of_the_papers_table6() -> None:
    from cckt.ablation.priors import PAPER_PRIORS

    percent = {cell: round(100 * value, 1) for cell, value in PAPER_PRIORS.items()}
    assert percent == {(0.7, 6): 38.0, (0.9, 6): 37.6, (0.7, 12): 36.8, (0.9, 12): 36.2}
    for rho, falls in ((0.7, 1.2), (0.9, 1.4)):
        assert percent[rho, 6] - percent[rho, 12] == pytest.approx(falls), "change with L"
    for limit, falls in ((6, 0.4), (12, 0.6)):
        assert percent[0.7, limit] - percent[0.9, limit] == pytest.approx(falls), "change with rho"


def test_user_errors(made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path) -> None:
    plan = made[0]
    empty = replace(plan, out=tmp_path / "empty")
    own = replace(empty, overrides=(), **OWN)
    for table, wrong, sentence in (
        ("table7", empty, "table 'table7' is not known; expected one of table4, table5, table6, options"),
        ("table4", replace(empty, seeds=0), "--seeds 0: expected at least 1"),
        ("table4", replace(own, train=tmp_path), "give both --train and --val"),
        (
            "table4",
            replace(empty, recipe="lvis-r50", overrides=()),
            "--recipe lvis-r50 needs your own data",
        ),
        (
            "table4",
            replace(empty, overrides=("guidance.enabled=false",)),
            "option guidance.enabled: an ablation starts",
        ),
        *(
            (
                "table4",
                replace(empty, overrides=(f"prior.source={source}",)),
                "option prior.source: an ablation starts",
            )
            for source in ("none", "oracle", "corrupted")
        ),
        (
            "table4",
            replace(empty, rows=("train.lr=0.1",)),
            "--row applies only to the tables options and finetune; you passed table4",
        ),
        (
            "table4",
            replace(plan, photos=9),
            "found 8 photos in train, expected 9; name another folder, or pass --photos 8",
        ),
        (
            "table4",
            replace(plan, overrides=(*SMALL, "train.lr=0.01")),
            r"was begun with other options \(train.lr=0.001, ",
        ),
        ("table5", replace(empty, teachers=("shapeworld",)), "give --teacher NAME two times or more"),
        ("table5", replace(empty, teachers=("a/b", "a-b")), "two teachers are both called a-b"),
        ("table5", replace(empty, teachers=("a", "b"), overrides=("prior.source=mllm",)), "expected clip"),
        ("options", empty, 'give --row "denoise.groups=0" once per row'),
        (
            "options",
            replace(empty, rows=("guidance.order=shuffled",)),
            "is the same as the recipe with your options; remove it",
        ),
        (
            "options",
            replace(empty, rows=("train.lr=0.1", "train.lr=1e-1")),
            '--row "train.lr=1e-1": is the same as the row "train.lr=0.1"; remove it',
        ),
        ("options", replace(empty, rows=("train.lr='1",)), "No closing quotation; expected SECTION"),
        (
            "options",
            replace(empty, rows=("train.tempo=1",)),
            '--row "train.tempo=1": unknown option',
        ),
        (
            "table6",
            replace(own, run=tmp_path, val=tmp_path, overrides=("train.lr=1",)),
            "--set decides how a run is trained; you passed --run",
        ),
        (
            "table6",
            replace(own, run=tmp_path, val=tmp_path, epochs=3),
            "--epochs decides how a run is trained",
        ),
        *(
            (
                "table6",
                replace(own, **{"run": tmp_path, "val": tmp_path, name: value}),
                f"--{name} decides how a run is trained",
            )
            for name, value in (("train", tmp_path), ("photos", 9), ("recipe", "lvis-r50"))
        ),
        (
            "table4",
            replace(plan, train=tmp_path),
            r"--photos counts rendered photos, and .* is given; remove --photos",
        ),
        ("levels", replace(empty, val=tmp_path, held_out=5), "--held-out counts rendered photos"),
        ("table6", replace(empty, run=tmp_path), "no data set to evaluate it on; give --val"),
        (
            "table6",
            replace(
                empty, run=plan.out / "table4" / "plain-0", val=plan.out / "held-out", overrides=(), **OWN
            ),
            "is not guided by a column of priors",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            ablate(table, wrong)
    lacking = replace(plan, train=plan.out / "train", val=plan.out / "train", **OWN)
    with pytest.raises(UserError, match=r"guidance: There is no column priors/clip under .*train"):
        ablate("table4", lacking)


def test_runs_of_other_data_are_refused(made: tuple[AblationPlan, dict[str, Any]]) -> None:
    plan = made[0]
    cache_images(plan.out / "train", "shapeworld")
    cache_clip_priors(plan.out / "train")
    other = replace(plan, train=plan.out / "train", val=plan.out / "train", **OWN)
    with pytest.raises(UserError, match="its --val was another data set than"):
        ablate("table4", other)


def test_the_command_shows_the_table(
    made: tuple[AblationPlan, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = made[0]
    options = [word for value in MICRO["overrides"] for word in ("--set", value)]
    words = ["--seeds", "2", "--photos", "8", "--held-out", "6", "--out", plan.out, *options]
    outcome = cckt(capsys, "ablate", "table4", *words)
    assert outcome.code == 0, outcome.err
    for part in ("plain", "all three", "38.0", "table4.md", "over the plain detector (the paper: +12.6)"):
        assert part in outcome.out, part
    sentence = cckt(capsys, "ablate", "table9", "--out", plan.out).sentence()
    assert "'table9' is not known" in sentence


@pytest.mark.parametrize("content", [[], 5, {}, {"stopped": "", "evaluation": {"photos": 1}}])
def test_results_edited_by_hand_are_a_sentence(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path, content: Any
) -> None:
    plan = made[0]
    run = shutil.copytree(ROWS[-1].run(plan.out, 0), tmp_path / "run")
    (run / "digests.json").unlink()
    (run / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"metrics\.json"):
        runs.finish_run(run_config(run), plan.out / "train", plan.out / "held-out", run, Silent())


def test_a_signal_stops_it_and_the_same_call_resumes(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = made[0].out / "train", made[0].out / "held-out"
    config, run = changed(made[0].config(), "train", epochs=2), tmp_path / "run"
    original = runs.train
    monkeypatch.setattr(
        runs,
        "train",
        lambda *given, **options: original(*given, **options, max_steps=2) | {"stopped": "SIGTERM"},
    )
    with pytest.raises(
        Interrupted, match="stopped by SIGTERM at step 2 of run; run the same command"
    ) as ended:
        runs.finish_run(config, *folders, run, Silent())
    assert ended.value.number == signal.SIGTERM
    before = json.loads((run / "ablate.json").read_text())["seconds"]
    (run / "metrics.json").unlink()
    monkeypatch.setattr(runs, "train", original)
    figures = runs.finish_run(config, *folders, run, Silent())
    assert figures["seconds"] > before > 0
    assert (run / "checkpoints" / "step-00000008").is_dir()


def test_a_killed_table_resumes_to_the_same_figures(
    made: tuple[AblationPlan, dict[str, Any]], tmp_path: Path
) -> None:
    places = ["--train", made[0].out / "train", "--val", made[0].out / "held-out", "--out", tmp_path / "out"]
    options = [word for value in (*SMALL, "train.checkpoint_every=1") for word in ("--set", value)]
    words = [str(word) for word in ("ablate", "table4", "--seeds", "1", *places, *options)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, "-m", "cckt", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    second = tmp_path / "out" / "table4" / "guidance-0" / "checkpoints"
    deadline = time.monotonic() + 900  # for a busy machine
    while not list(second.glob("step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.kill()
    _, output = process.communicate()
    assert list(second.glob("step-*")), output.decode()
    folders = {"train": made[0].out / "train", "val": made[0].out / "held-out"}
    plan = replace(made[0], out=tmp_path / "out", **folders, **OWN)
    answer = ablate("table4", replace(plan, seeds=1, overrides=(*SMALL, "train.checkpoint_every=1")))
    for row, known in zip(answer["rows"], made[1]["rows"], strict=True):
        for figure in ("ap50_base", "ap50_novel", "ap"):
            assert row["runs"][0][figure] == known["runs"][0][figure], row["key"]
