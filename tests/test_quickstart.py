"""The quickstart on a dozen photos, with the teacher that ships and a student of milliseconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import quickstart
from cache_builder.errors import UserError
from cache_builder.index import novel_boxes, open_index
from cache_builder.progress import Silent
from cache_builder.runner import Interrupted
from cache_builder.teacher import load_teacher
from detector.config import apply_overrides
from detector.recipes import recipe
from quickstart import FIGURES, FULL, QUICK, Plan
from tests.front import SMALL, cckt, coco, index

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
    for one in (written, written["plain"]):
        assert all(0 <= one[name] <= 1 for name in FIGURES)
    assert set(written["seconds"]) == {
        "render", "cache", "train", "evaluate", "train plain", "evaluate plain", "draw"
    }  # fmt: skip
    assert written["seconds_total"] == pytest.approx(sum(written["seconds"].values()))
    assert written["versions"]["torch"]
    assert written["plan"]["train_photos"] == MICRO.train_photos


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
    assert {name: again[name] for name in FIGURES} == {name: figures[name] for name in FIGURES}
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


def test_without_anything_novel_there_is_nothing_to_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco(tmp_path)
    assert cckt(capsys, *index(tmp_path, "seen", "base")).code == 0
    pictures = quickstart.draw(
        tmp_path / "p", tmp_path / "run", tmp_path / "seen", load_teacher("shapeworld"), Silent()
    )
    assert pictures == []


def test_the_plans_are_plans_of_the_recipe() -> None:
    for plan in (QUICK, FULL):
        assert apply_overrides(recipe("shapeworld"), plan.overrides).recipe == "shapeworld"
    assert FULL.train_photos > QUICK.train_photos
