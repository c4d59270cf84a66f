"""The quickstart on a dozen photos, with the teacher that ships and a student of milliseconds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cckt import quickstart
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index import novel_boxes, open_index
from cckt.cache_builder.runner import Interrupted
from cckt.cache_builder.store import open_column
from cckt.detector.config.config import apply_overrides
from cckt.detector.config.recipes import recipe
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.evaluation.protocols import SPLIT_FIGURES
from cckt.quickstart import FULL, QUICK, Plan
from tests.cache_builder.mllm.mllm_models import outspoken
from tests.commands.front import SMALL, cckt

MICRO = Plan(train_photos=8, held_out_photos=6, overrides=tuple(SMALL))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    out = tmp_path_factory.mktemp("quick") / "out"
    said: list[str] = []
    figures = quickstart.quickstart(out, plan=MICRO, plain=True, say=said.append)
    return out, figures, said


def test_it_measures_both_detectors_and_writes_the_figures_down(
    done: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, figures, _ = done
    written = json.loads((out / "metrics.json").read_text())
    assert written == json.loads(json.dumps(figures))
    for one in (written, written["plain"], written["plain"]["weighed"]):
        assert all(0 <= one[name] <= 1 for name in SPLIT_FIGURES)
    assert set(written["seconds"]) == {
        "render", "cache", "train", "evaluate", "train plain", "evaluate plain",
        "evaluate plain with priors", "draw"
    }  # fmt: skip
    assert written["seconds_total"] == pytest.approx(sum(written["seconds"].values()))
    assert written["versions"]["torch"]
    assert written["plan"]["train_photos"] == MICRO.train_photos


def test_training_photos_have_priors_only_where_training_heeds_them(
    done: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    assert (done[0] / "held-out" / "priors" / "clip").is_dir()
    assert not (done[0] / "train" / "images").exists()
    assert not (done[0] / "train" / "priors").exists()
    heeding = replace(MICRO, overrides=(*SMALL, "guidance.priors=0.5"))
    quickstart.quickstart(tmp_path / "out", plan=heeding)
    assert (tmp_path / "out" / "train" / "priors" / "clip").is_dir()


def test_plain_is_measured_with_the_methods_weight_of_priors_too(
    done: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, figures, _ = done
    run, weight = out / "run-plain", recipe(MICRO.recipe).inference.prior_weight
    (folder,) = run.glob("eval-*")
    assert f"prior_weight={weight}" in folder.name
    alone = evaluate_run(
        run, out / "held-out", priors="clip", overrides=[f"inference.prior_weight={weight}"], out=out / "x"
    ).as_dict()
    shutil.rmtree(out / "x")
    assert figures["plain"]["weighed"] == {name: alone[name] for name in SPLIT_FIGURES}


def test_without_a_multimodal_llm_none_is_asked(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, figures, _ = done
    assert figures["mllm"] is None
    assert not (out / "held-out" / "priors" / "mllm").exists()


def test_a_multimodal_llm_says_what_photos_hold_and_the_same_weights_are_scored(
    done: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    for part in outspoken():
        part.save_pretrained(model)
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    weights = (out / "run" / "model.safetensors").read_bytes()
    said: list[str] = []
    figures = quickstart.quickstart(out, plan=MICRO, mllm=str(model), say=said.append)
    assert (out / "run" / "model.safetensors").read_bytes() == weights
    index = open_index(out / "held-out")
    priors = open_column(out / "held-out", "priors/mllm", index_digest=index.digest)
    assert priors.all().shape == (MICRO.held_out_photos, 65)
    alone = evaluate_run(out / "run", out / "held-out", priors="mllm", out=tmp_path / "alone").as_dict()
    assert {name: figures["mllm"][name] for name in SPLIT_FIGURES} == {
        name: alone[name] for name in SPLIT_FIGURES
    }
    assert figures["ap50_all"] == done[1]["ap50_all"], "with CLIP priors as before"
    assert figures["mllm"]["priors"]["novel"]["pairs"] == figures["priors"]["novel"]["pairs"]
    assert {"ask", "evaluate mllm"} <= set(figures["seconds"])
    assert figures["seconds_total"] == pytest.approx(sum(figures["seconds"].values()))
    assert json.loads((out / "metrics.json").read_text())["mllm"] == json.loads(json.dumps(figures["mllm"]))
    assert any("multimodal LLM" in line for line in said)


def test_shapeworlds_own_must_be_there_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = cckt(capsys, "quickstart", "--out", tmp_path / "out", "--mllm")
    assert "--mllm-model shapeworld: its weights are not installed" in said.sentence()
    assert not (tmp_path / "out").exists()


def test_the_command_sets_both_priors_side_by_side(
    done: tuple[Path, dict[str, Any], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, figures, _ = done
    asked: list[Any] = []

    def answered(out: Path, **options: Any) -> dict[str, Any]:
        asked.append(options["mllm"])
        return figures | {"mllm": dict.fromkeys(SPLIT_FIGURES, 0.123), "plain": None}

    monkeypatch.setattr(quickstart, "quickstart", answered)
    said = cckt(capsys, "quickstart", "--out", "anywhere", "--mllm")
    assert said.code == 0, said.err
    assert asked == ["shapeworld"]
    assert "CCKT-Det, CLIP priors" in said.out
    assert "the same detector, MLLM priors" in said.out
    assert "12.3" in said.out


def test_training_never_saw_a_novel_box_and_the_held_out_photos_show_some(
    done: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, _, said = done
    seen, held_out = open_index(out / "train"), open_index(out / "held-out")
    assert (len(seen), len(held_out)) == (MICRO.train_photos, MICRO.held_out_photos)
    assert novel_boxes(seen) == 0
    assert novel_boxes(held_out) > 0
    dropped = seen.card["dropped"]["novel"]
    assert dropped > 0
    assert any(f"{dropped} boxes" in line for line in said), "the leak guard's count is told"
    config = (out / "run-plain" / "config.toml").read_text()
    assert "guidance = false" in config


def test_the_teachers_guesses_are_measured_by_split(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, figures, _ = done
    assert set(figures["priors"]) == {"base", "novel", "all"}
    assert figures["priors"]["base"]["pairs"] > 0


def test_it_draws_a_sheet_and_single_photos(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, figures, _ = done
    assert figures["pictures"][0] == "predictions/sheet.png"
    assert len(figures["pictures"]) > 1
    for name in figures["pictures"]:
        with Image.open(out / name) as picture:
            assert min(picture.size) >= 300


def test_again_keeps_what_is_finished(done: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, figures, _ = done
    kept = [out / "run" / "model.safetensors", out / "train" / "index" / "index.json"]
    kept += [next((out / "train" / "crops" / "values").glob("c.*")), next((out / "train").glob("photos/*"))]
    before = [path.stat().st_mtime_ns for path in kept]
    again = quickstart.quickstart(out, plan=MICRO, plain=True)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert {name: again[name] for name in SPLIT_FIGURES} == {name: figures[name] for name in SPLIT_FIGURES}
    assert again["seconds"]["train"] == figures["seconds"]["train"], "nothing was trained again"


def test_the_command_shows_a_table_and_what_to_do_next(
    done: tuple[Path, dict[str, Any], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, figures, _ = done
    monkeypatch.setattr(quickstart, "QUICK", MICRO)
    said = cckt(capsys, "quickstart", "--out", out, "--plain")
    assert said.code == 0, said.err
    for words in (
        "CCKT-Det",
        "without the method",
        "AP50 novel",
        f"{100 * figures['ap50_base']:.1f}",
        "render",
    ):
        assert words in said.out
    assert f"cckt predict {out}/run" in said.out
    assert "cckt data index --annotations" in said.out


def test_a_folder_of_another_plan_or_of_something_else_is_refused(
    done: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="another plan"):
        quickstart.quickstart(done[0], plan=replace(MICRO, train_photos=9))
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="not an empty folder"):
        quickstart.quickstart(tmp_path, plan=MICRO)
    with pytest.raises(UserError, match="not an empty folder"):
        quickstart.quickstart(tmp_path / "letter.txt", plan=MICRO)


@pytest.mark.parametrize(("signal", "number"), [("SIGINT", 2), ("SIGTERM", 15), ("SIGUSR1", 10)])
def test_a_stopped_training_says_so_and_counts_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal: str, number: int
) -> None:
    def stopped(*given: Any, **options: Any) -> dict[str, Any]:
        return {"step": 7, "seconds": 3.0, "stopped": signal, "evaluation": {}}

    monkeypatch.setattr(quickstart, "train", stopped)
    stages = quickstart._Stages(tmp_path / "out", MICRO, Silent())
    with pytest.raises(Interrupted, match=f"stopped by {signal} at training step 7") as caught:
        stages.run("train", "evaluate", recipe("shapeworld"), tmp_path, tmp_path, tmp_path / "run")
    assert caught.value.number == number
    assert quickstart._Stages(tmp_path / "out", MICRO, Silent()).seconds["train"] == 3.0


def test_the_plans_are_plans_of_the_recipe() -> None:
    for plan in (QUICK, FULL):
        assert apply_overrides(recipe(plan.recipe), plan.overrides).recipe == plan.recipe
    assert FULL.train_photos > QUICK.train_photos
