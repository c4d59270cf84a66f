"""The quickstart on a dozen photos, with shapeworld's teacher and a student that takes milliseconds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from cckt import quickstart
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index import novel_boxes, open_index
from cckt.cache_builder.proposals import open_nouns, open_proposals
from cckt.cache_builder.runner import Interrupted
from cckt.cache_builder.store import open_column
from cckt.detector.config.recipes import recipe
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.evaluation.protocols import SPLIT_FIGURES
from cckt.detector.runs.run_folder import run_config
from cckt.quickstart import FULL, QUICK, QuickstartPlan, stages
from tests.commands.front import SMALL, cckt

MICRO = QuickstartPlan(
    train_photos=8, held_out_photos=6, base_epochs=1, epochs=1, overrides=tuple(SMALL), top=3, ask=4
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    out = tmp_path_factory.mktemp("quick") / "out"
    lines: list[str] = []
    figures = quickstart.quickstart(out, plan=MICRO, plain=True, cckt=True, announce=lines.append)
    return out, figures, lines


def test_figures_of_every_training_are_written(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, figures, _ = done
    written = json.loads((out / "metrics.json").read_text())
    assert written == json.loads(json.dumps(figures))
    for one in (written, written["base"], written["plain"], written["cckt"], written["cckt"]["mllm"]):
        assert all(0 <= one[name] <= 1 for name in SPLIT_FIGURES)
    assert set(written["seconds"]) == {
        "render", "cache", "train base", "evaluate base", "name regions", "train", "evaluate",
        "evaluate requests", "train plain", "evaluate plain", "priors", "train cckt", "evaluate cckt", "ask",
        "evaluate mllm", "draw"
    }  # fmt: skip
    assert written["seconds_total"] == pytest.approx(sum(written["seconds"].values()))
    assert [one["words"] for one in written["asked"]] == [1, 3, 8]
    assert all(one["absent_finds_per_photo"] >= 0 for one in written["asked"])
    assert written["versions"]["torch"]
    assert written["plan"]["train_photos"] == MICRO.train_photos


def test_the_second_training_starts_from_the_first_and_reads_named_regions(
    done: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, figures, lines = done
    counts = figures["nouns"]
    assert 0 < counts["asked"] <= 4
    assert counts["asked"] < counts["regions"] <= 3 * MICRO.train_photos
    assert any(f"{counts['regions']} regions" in line for line in lines)
    index = open_index(out / "train")
    nouns = open_nouns(out / "train", index, open_proposals(out / "train", index))
    assert len(nouns.ids) == counts["regions"]
    assert nouns.provenance.maker == "mllm"
    first, run, plain = out / "run-base", out / "run", out / "run-plain"
    before, after = (load_file(one / "model.safetensors") for one in (first, run))
    shared = [name for name in before if name.startswith("backbone") and before[name].ndim == 4]
    moved = sum(float((after[name] - before[name]).norm()) for name in shared)
    assert 0 < moved < 0.5 * sum(float(before[name].norm()) for name in shared), "a few steps away"
    assert run_config(run).data.proposals > 0
    for one in (first, plain):
        assert run_config(one).data.proposals == 0
        assert not any(term.weight for term in run_config(one).terms.values())


def test_epochs_of_the_plans() -> None:
    for plan in (QUICK, FULL):
        both = plan.base().train.epochs + plan.distilled().train.epochs
        assert plan.plain().train.epochs == plan.cckt().train.epochs == both
        assert plan.cckt().recipe == plan.cckt_recipe
    assert FULL.train_photos > QUICK.train_photos


def test_without_options_neither_cckt_nor_the_plain_detector_is_trained(
    done: tuple[Path, dict[str, Any], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    shutil.copytree(
        done[0], out, ignore=shutil.ignore_patterns("run-*t", "run-plain", "priors", "predictions")
    )
    monkeypatch.setattr(quickstart, "QUICK", MICRO)
    outcome = cckt(capsys, "quickstart", "--out", out)
    assert outcome.code == 0, outcome.err
    assert "CCKT-Det" not in outcome.out
    written = json.loads((out / "metrics.json").read_text())
    assert written["plain"] is written["cckt"] is None
    assert not (out / "run-cckt").exists()
    assert not (out / "held-out" / "priors").exists()
    for words in ("HD-OVD, named regions", "before, on base boxes alone", "AP50 novel", "render"):
        assert words in outcome.out
    assert f"{100 * written['ap50_base']:.1f}" in outcome.out
    assert f"cckt predict {out}/run" in outcome.out
    assert "cckt data index --annotations" in outcome.out


def test_cckt_is_scored_with_both_sources_of_priors(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, figures, lines = done
    held_out, run = out / "held-out", out / "run-cckt"
    index = open_index(held_out)
    priors = open_column(held_out, "priors/mllm", index_digest=index.digest)
    assert priors.all().shape == (MICRO.held_out_photos, 65)
    expected = evaluate_run(run, held_out, priors="mllm", out=out / "x").as_dict()
    shutil.rmtree(out / "x")
    found = figures["cckt"]
    assert {name: found["mllm"][name] for name in SPLIT_FIGURES} == {
        name: expected[name] for name in SPLIT_FIGURES
    }
    assert set(found["priors"]) == {"base", "novel", "all"}
    assert found["priors"]["base"]["pairs"] > 0
    assert found["mllm"]["priors"]["novel"]["pairs"] == found["priors"]["novel"]["pairs"]
    assert any("multimodal LLM" in line for line in lines)


def test_a_missing_multimodal_llm_is_reported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = cckt(capsys, "quickstart", "--out", tmp_path / "out")
    assert "--mllm-model shapeworld: its weights are not installed" in outcome.sentence()
    assert not (tmp_path / "out").exists()


def test_the_command_shows_every_training(
    done: tuple[Path, dict[str, Any], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, figures, _ = done
    given: list[Any] = []

    def fake(out: Path, **options: Any) -> dict[str, Any]:
        given.append((options["plain"], options["cckt"]))
        mllm = dict.fromkeys(SPLIT_FIGURES, 0.123)
        return figures | {"cckt": figures["cckt"] | {"mllm": mllm}}

    monkeypatch.setattr(quickstart, "quickstart", fake)
    outcome = cckt(capsys, "quickstart", "--out", "anywhere", "--plain", "--cckt")
    assert outcome.code == 0, outcome.err
    assert given == [(True, True)]
    for words in ("base boxes, as many epochs", "CCKT-Det, CLIP priors", "CCKT-Det, MLLM priors", "12.3"):
        assert words in outcome.out


def test_novel_boxes_are_held_out_only(
    done: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, _, lines = done
    train_data, held_out = open_index(out / "train"), open_index(out / "held-out")
    assert (len(train_data), len(held_out)) == (MICRO.train_photos, MICRO.held_out_photos)
    assert novel_boxes(train_data) == 0
    assert novel_boxes(held_out) > 0
    dropped = train_data.card["dropped"]["novel"]
    assert dropped > 0
    assert any(f"{dropped} boxes" in line for line in lines), "expected the count of dropped boxes"


def test_pictures_are_a_sheet_and_single_photos(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, figures, _ = done
    assert figures["pictures"][0] == "predictions/sheet.png"
    assert len(figures["pictures"]) > 1
    for name in figures["pictures"]:
        with Image.open(out / name) as picture:
            assert min(picture.size) >= 300


def test_a_second_call_keeps_finished_work(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, figures, _ = done
    kept = [out / "run" / "model.safetensors", out / "train" / "index" / "index.json"]
    kept += [next((out / "train" / "crops" / "values").glob("c.*")), next((out / "train").glob("photos/*"))]
    before = [path.stat().st_mtime_ns for path in kept]
    again = quickstart.quickstart(out, plan=MICRO, plain=True, cckt=True)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert {name: again[name] for name in SPLIT_FIGURES} == {name: figures[name] for name in SPLIT_FIGURES}
    assert again["seconds"]["train"] == figures["seconds"]["train"], "expected no new training"


def test_a_folder_of_another_plan_or_origin_is_refused(
    done: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="another plan"):
        quickstart.quickstart(done[0], plan=replace(MICRO, train_photos=9))
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="neither an empty folder"):
        quickstart.quickstart(tmp_path, plan=MICRO)
    with pytest.raises(UserError, match="neither an empty folder"):
        quickstart.quickstart(tmp_path / "letter.txt", plan=MICRO)


@pytest.mark.parametrize(("signal", "number"), [("SIGINT", 2), ("SIGTERM", 15), ("SIGUSR1", 10)])
def test_a_stopped_training_raises_and_its_seconds_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal: str, number: int
) -> None:
    def stopped(*given: Any, **options: Any) -> dict[str, Any]:
        return {"step": 7, "seconds": 3.0, "stopped": signal, "evaluation": {}}

    monkeypatch.setattr(stages, "train", stopped)
    made = stages.Stages(tmp_path / "out", MICRO, Silent())
    with pytest.raises(Interrupted, match=f"stopped by {signal} at training step 7") as caught:
        made.run("train", "evaluate", recipe("shapeworld"), tmp_path, tmp_path, tmp_path / "run")
    assert caught.value.number == number
    assert stages.Stages(tmp_path / "out", MICRO, Silent()).seconds["train"] == 3.0


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "5",
        "{}",
        '{"plan": 5, "seconds": {}}',
        '{"plan": {"train_photos": []}, "seconds": {}}',
        '{"plan": {"train_photos": 8}, "seconds": 3}',
        '{"plan": {"train_photos": 8}, "seconds": {"train": "x"}}',
    ],
)
def test_a_plan_edited_by_hand_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "quickstart.json").write_text(content)
    with pytest.raises(UserError, match=r"quickstart\.json: its entries are not as cckt writes them"):
        quickstart.quickstart(tmp_path, plan=MICRO)
    assert (tmp_path / "quickstart.json").read_text() == content
