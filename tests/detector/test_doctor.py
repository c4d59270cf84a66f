"""Findings on recipes, on data sets for them, and on runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cckt.cache_builder.doctor.finding import Finding
from cckt.cache_builder.index import build_index, open_index
from cckt.detector.config.config import apply_overrides
from cckt.detector.doctor import check_evaluation, check_recipe, check_run, check_training, check_unseen
from cckt.detector.runs.checkpoints import newest_checkpoint
from cckt.detector.students.build import STUDENTS
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.training.train import train
from tests.detector.tiny import CONCEPTS, make_data, render, tiny_config, unit_rows, write_column


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "seen")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(tiny_config(), data, None, out, max_steps=1)
    return out


def bad(findings: list[Finding]) -> str:
    return "; ".join(one.message for one in findings if one.level == "bad")


def test_an_empty_folder_is_neither_run_nor_data_set(tmp_path: Path) -> None:
    findings, facts = check_run(tmp_path)
    assert (facts, "expected a run folder" in bad(findings)) == (None, True)
    findings, facts = check_training(tiny_config(), tmp_path)
    assert (facts, "holds no index" in bad(findings)) == (None, True)
    assert "holds no index" in bad(check_evaluation(tiny_config(), tmp_path, None))


def test_a_recipe_that_can_be_built_and_two_that_cannot() -> None:
    (found,) = check_recipe(tiny_config())
    assert found.level == "good"
    assert "8 queries" in found.message
    assert "timm has no model" in bad(check_recipe(tiny_config("model.backbone=resnet5000")))
    message = bad(check_recipe(tiny_config("model.backbone_weights=nowhere.safetensors")))
    assert "nowhere.safetensors" in message


def test_weights_that_cannot_be_fetched_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Offline(DeformableDETR):
        def __init__(self, *given: object, pretrained: bool = True) -> None:
            if pretrained:
                raise OSError("no route to host\nat all")
            super().__init__(*given, pretrained=False)  # type: ignore[arg-type]

    monkeypatch.setitem(STUDENTS, "deformable_detr", Offline)
    (found,) = check_recipe(tiny_config())
    assert found.level == "warn"
    assert "(no route to host)" in found.message


def test_data_that_fit_a_recipe_and_data_that_do_not(data: Path, tmp_path: Path) -> None:
    findings, facts = check_training(tiny_config(), data)
    assert not bad(findings)
    assert facts is not None
    assert "4 base concepts" in findings[0].message
    photos = len(open_index(data))
    (finding, *_), _ = check_training(tiny_config(f"train.batch={photos - 1}", "train.epochs=3"), data)
    assert ", 3 steps" in finding.message, "expected 3 steps: training drops an incomplete batch"
    assert not bad(check_training(tiny_config("train.batch=3", "train.accumulate=3"), data)[0])
    bare = render(tmp_path / "bare")
    build_index(bare / "annotations.json", bare / "photos", bare, split=bare / "split.json", keep="base")
    assert "column text" in bad(check_training(tiny_config(), bare)[0])


def test_an_evaluation_set_without_priors_or_without_novel_boxes(data: Path, tmp_path: Path) -> None:
    config = tiny_config("guidance.enabled=true", "prior.source=clip")
    assert "priors/clip" in bad(check_evaluation(config, data, None))
    message = bad(check_evaluation(apply_overrides(config, ["prior.source=none"]), data, None))
    assert "was built with --keep base" in message
    held = render(tmp_path / "held")
    build_index(held / "annotations.json", held / "photos", held, split=held / "split.json", keep="all")
    write_column(held, open_index(held), "text", unit_rows(CONCEPTS, 1))
    assert not bad(check_evaluation(apply_overrides(config, ["prior.source=none"]), held, None))


def test_a_trained_novel_concept_is_a_leak(data: Path, run: Path) -> None:
    _, facts = check_run(run)
    assert facts is not None
    assert not bad(check_unseen(facts, data))
    leaked = replace(facts, names=[*facts.names, "Thing_5"])
    message = bad(check_unseen(leaked, data))
    assert message.startswith("the run was trained on 1 of the 2 novel concepts of")
    assert "(thing 5)" in message


def test_damaged_checkpoints_of_a_run_are_reported(run: Path) -> None:
    findings, facts = check_run(run)
    assert [one.level for one in findings] == ["good"]
    assert facts is not None
    checkpoint, _ = newest_checkpoint(run)
    assert checkpoint is not None
    (checkpoint / "state.pt").write_bytes(b"")
    findings, _ = check_run(run)
    assert [one.level for one in findings] == ["good", "bad"]
    (run / "model.safetensors").unlink()
    assert "no intact checkpoint" in bad(check_run(run)[0])
