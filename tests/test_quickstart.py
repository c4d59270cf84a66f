"""The quickstart on a dozen photos, with shapeworld's teacher and a student that takes milliseconds."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
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
from cckt.quickstart import FULL, QUICK, Distillation, QuickstartPlan, stages
from tests.cache_builder.mllm.mllm_models import outspoken
from tests.commands.front import SMALL, cckt

MICRO = QuickstartPlan(
    train_photos=8,
    held_out_photos=6,
    overrides=tuple(SMALL),
    distillation=Distillation(overrides=tuple(SMALL), top=3, ask=4),
)
ONE_TRAINING = replace(MICRO, distillation=None)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    out = tmp_path_factory.mktemp("quick") / "out"
    lines: list[str] = []
    figures = quickstart.quickstart(out, plan=MICRO, plain=True, announce=lines.append)
    return out, figures, lines


def test_figures_of_both_detectors_are_written(
    done: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, figures, _ = done
    written = json.loads((out / "metrics.json").read_text())
    assert written == json.loads(json.dumps(figures))
    for one in (written, written["first"], written["plain"], written["plain"]["weighed"]):
        assert all(0 <= one[name] <= 1 for name in SPLIT_FIGURES)
    assert set(written["seconds"]) == {
        "render", "cache", "train", "evaluate first", "name regions", "distil", "evaluate",
        "train plain", "evaluate plain", "evaluate plain with priors", "evaluate requests", "draw"
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
    first, run = out / "run-first", out / "run"
    before, after = (load_file(one / "model.safetensors") for one in (first, run))
    shared = [name for name in before if name.startswith("backbone") and before[name].ndim == 4]
    moved = sum(float((after[name] - before[name]).norm()) for name in shared)
    assert 0 < moved < 0.5 * sum(float(before[name].norm()) for name in shared), "a few steps away"
    assert run_config(run).recipe == "shapeworld-hdovd-adamixer"
    assert run_config(first).recipe == "shapeworld-fast"
    plain = run_config(out / "run-plain")
    assert plain.train == run_config(run).train
    assert plain.data.proposals == 0
    assert not any(term.weight for term in plain.terms.values())


def test_without_distillation_there_is_one_training(
    done: tuple[Path, dict[str, Any], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    for name in ("train", "held-out"):
        shutil.copytree(done[0] / name, out / name)
    shutil.rmtree(out / "train" / "proposals")
    shutil.copytree(done[0] / "run-first", out / "run")
    (out / "quickstart.json").write_text(
        json.dumps({"plan": json.loads(json.dumps(asdict(ONE_TRAINING))), "seconds": {}})
    )
    monkeypatch.setattr(quickstart, "QUICK", ONE_TRAINING)
    outcome = cckt(capsys, "quickstart", "--out", out)
    assert outcome.code == 0, outcome.err
    assert "HD-OVD" not in outcome.out
    written = json.loads((out / "metrics.json").read_text())
    assert written["first"] is written["nouns"] is None
    assert not (out / "train" / "proposals").exists()


def test_training_photos_have_priors_only_if_training_reads_them(
    done: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    assert (done[0] / "held-out" / "priors" / "clip").is_dir()
    assert not (done[0] / "train" / "priors").exists()
    with_priors = replace(ONE_TRAINING, overrides=(*SMALL, "guidance.priors=0.5"))
    quickstart.quickstart(tmp_path / "out", plan=with_priors)
    assert (tmp_path / "out" / "train" / "priors" / "clip").is_dir()


def test_plain_is_also_scored_with_the_prior_weight_of_the_method(
    done: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, figures, _ = done
    run, weight = out / "run-plain", recipe("shapeworld-fast").inference.prior_weight
    (folder,) = run.glob("eval-*")
    assert f"prior_weight={weight}" in folder.name
    expected = evaluate_run(
        run, out / "held-out", priors="clip", overrides=[f"inference.prior_weight={weight}"], out=out / "x"
    ).as_dict()
    shutil.rmtree(out / "x")
    assert figures["plain"]["weighed"] == {name: expected[name] for name in SPLIT_FIGURES}


def test_without_mllm_no_multimodal_llm_runs(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, figures, _ = done
    assert figures["mllm"] is None
    assert not (out / "held-out" / "priors" / "mllm").exists()


def test_mllm_scores_the_same_weights_with_its_priors(
    done: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    for part in outspoken():
        part.save_pretrained(model)
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    weights = (out / "run-first" / "model.safetensors").read_bytes()
    lines: list[str] = []
    figures = quickstart.quickstart(out, plan=MICRO, mllm=str(model), announce=lines.append)
    assert (out / "run-first" / "model.safetensors").read_bytes() == weights
    index = open_index(out / "held-out")
    priors = open_column(out / "held-out", "priors/mllm", index_digest=index.digest)
    assert priors.all().shape == (MICRO.held_out_photos, 65)
    expected = evaluate_run(
        out / "run-first", out / "held-out", priors="mllm", out=tmp_path / "expected"
    ).as_dict()
    assert {name: figures["mllm"][name] for name in SPLIT_FIGURES} == {
        name: expected[name] for name in SPLIT_FIGURES
    }
    assert figures["ap50_all"] == done[1]["ap50_all"], "expected the figures with CLIP priors unchanged"
    assert figures["mllm"]["priors"]["novel"]["pairs"] == figures["priors"]["novel"]["pairs"]
    assert {"ask", "evaluate mllm"} <= set(figures["seconds"])
    assert figures["seconds_total"] == pytest.approx(sum(figures["seconds"].values()))
    assert json.loads((out / "metrics.json").read_text())["mllm"] == json.loads(json.dumps(figures["mllm"]))
    assert any("multimodal LLM" in line for line in lines)


def test_a_missing_multimodal_llm_is_reported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = cckt(capsys, "quickstart", "--out", tmp_path / "out", "--mllm")
    assert "--mllm-model shapeworld: its weights are not installed" in outcome.sentence()
    assert not (tmp_path / "out").exists()


def test_the_command_shows_both_sources_of_priors(
    done: tuple[Path, dict[str, Any], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, figures, _ = done
    models: list[Any] = []

    def fake(out: Path, **options: Any) -> dict[str, Any]:
        models.append(options["mllm"])
        return figures | {"mllm": dict.fromkeys(SPLIT_FIGURES, 0.123), "plain": None}

    monkeypatch.setattr(quickstart, "quickstart", fake)
    outcome = cckt(capsys, "quickstart", "--out", "anywhere", "--mllm")
    assert outcome.code == 0, outcome.err
    assert models == ["shapeworld"]
    assert "CCKT-Det, CLIP priors" in outcome.out
    assert "CCKT-Det, MLLM priors" in outcome.out
    assert "12.3" in outcome.out


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


def test_priors_are_measured_by_split(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, figures, _ = done
    assert set(figures["priors"]) == {"base", "novel", "all"}
    assert figures["priors"]["base"]["pairs"] > 0


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
    again = quickstart.quickstart(out, plan=MICRO, plain=True)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert {name: again[name] for name in SPLIT_FIGURES} == {name: figures[name] for name in SPLIT_FIGURES}
    assert again["seconds"]["train"] == figures["seconds"]["train"], "expected no new training"


def test_the_command_shows_a_table_and_the_next_steps(
    done: tuple[Path, dict[str, Any], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, figures, _ = done
    monkeypatch.setattr(quickstart, "QUICK", MICRO)
    outcome = cckt(capsys, "quickstart", "--out", out, "--plain")
    assert outcome.code == 0, outcome.err
    for words in (
        "HD-OVD, named regions",
        "CCKT-Det, CLIP priors",
        "base boxes alone",
        "AP50 novel",
        f"{100 * figures['ap50_base']:.1f}",
        "render",
    ):
        assert words in outcome.out
    assert f"cckt predict {out}/run" in outcome.out
    assert "cckt data index --annotations" in outcome.out


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


def test_overrides_of_the_plans_are_options_of_their_recipe() -> None:
    for plan in (QUICK, FULL):
        assert plan.config().recipe == plan.recipe
        assert plan.distilled().recipe == plan.distillation.recipe
    assert FULL.train_photos > QUICK.train_photos
