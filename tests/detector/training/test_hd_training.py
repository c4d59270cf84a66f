"""Training with all levels of HD-OVD: resumed to the bit, in parts, and refused without what terms need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.proposals import import_proposals
from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals import Selection
from cckt.cache_builder.store import ColumnName, open_column
from cckt.detector.config.config import Config, DataConfig
from cckt.detector.data import teacher_rows
from cckt.detector.data.row_source import RowSource, SampleView
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.losses.objective import check_terms, needed_rows
from cckt.detector.students.targets import TeacherRows
from cckt.detector.training.train import train
from tests.detector.tiny import WIDTH, make_data, tiny_config, unit_rows

HEADS = ("model.objectness=true", "model.text_projector=true", "model.relation_head=true")
LEVELS = (
    *HEADS,
    "model.image_head=true",
    "model.reference=guided",
    "denoise.groups=1",
    "one_to_many.repeats=2",
    "matcher.class_agnostic=true",
    "loss.cells_learn_proposals=true",
    "loss.loss_class=0",
    "data.proposals=3",
    "data.min_proposal_side=4",
    "terms.region_contrast.proposals=true",
    "terms.instance_contrast.weight=0.5",
    "terms.instance_contrast.gate=0",
    "terms.instance_contrast.queue=5",
    "terms.instance_relation.weight=5",
    "terms.instance_relation.gate=0",
    "terms.novel_aware_classes.weight=0.5",
    "terms.novel_aware_classes.gate=0",
    "terms.text_relation.weight=5",
    "terms.text_relation.first_epoch=1",
    "terms.image_contrast.weight=0.2",
    "terms.image_contrast.queue=3",
    "inference.classification=fusion",
    "prior.source=none",
)
TERMS = ("contrast", "instance_contrast", "instance_relation", "novel_aware_classes", "image_contrast")


class DrawnRows(RowSource):
    """Rows of made-up columns: text of a noun, or a crop near it; a fifth has none."""

    kind = "noun"

    def __init__(self, data: Path, index: Index, options: DataConfig) -> None:
        self.columns = [open_column(data, str(ColumnName("crops")), index_digest=index.digest)]

    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        ids = view.proposals * 7 % 9
        texts, noise = unit_rows(9, 5)[ids], unit_rows(64, 6)[view.proposals % 64]
        values = texts if self.kind == "noun" else texts + 0.1 * noise
        values = values / np.linalg.norm(values, axis=1, keepdims=True)
        given = torch.from_numpy(view.proposals % 5 > 0)
        return TeacherRows(
            torch.from_numpy(values.astype(np.float32)),
            given,
            "proposal",
            torch.from_numpy(ids) if self.kind == "noun" else None,
        )


class DrawnCrops(DrawnRows):
    kind = "crop"


class DrawnImages(DrawnRows):
    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        values = torch.from_numpy(unit_rows(64, 7, WIDTH)[view.image % 64][None])
        return TeacherRows(values, torch.tensor([view.image != 3]), "image")


@pytest.fixture(autouse=True)
def drawn_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in {"noun": DrawnRows, "proposal_crop": DrawnCrops, "image": DrawnImages}.items():
        monkeypatch.setitem(teacher_rows.ROW_SOURCES, name, source)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos with 0 to 5 proposals."""
    data = make_data(tmp_path_factory.mktemp("data"), photos=6)
    random = np.random.default_rng(0)
    held = json.loads((data / "annotations.json").read_text())
    records = [
        {"image_id": one["id"], "bbox": [*random.integers(0, 30, 2).tolist(), 20, 24], "score": 0.5}
        for number, one in enumerate(held["images"])
        for _ in range(number)
    ]
    (data / "results.json").write_text(json.dumps(records))
    import_proposals(
        data, data / "results.json", saw_novel="no", selection=Selection(min_side=4, nms=1), workers=0
    )
    return data


def tensors(run: Path, name: str, step: int = 9) -> dict[str, Tensor]:
    return safetensors.torch.load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == "train"]


@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_with_all_levels_resumes_to_the_bit(folder: Path, tmp_path: Path, parts: int) -> None:
    config = tiny_config(*LEVELS, f"train.accumulate={parts}")
    train(config, folder, None, tmp_path / "a")
    train(config, folder, None, tmp_path / "b", max_steps=5)
    train(config, folder, None, tmp_path / "b", resume=True, max_steps=9)
    for name in ("model", "objective"):
        one, other = tensors(tmp_path / "a", name), tensors(tmp_path / "b", name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    held = tensors(tmp_path / "a", "objective")
    assert held["terms.instance_contrast.students.filled"].tolist() == [5, 5]
    assert held["terms.image_contrast.teachers.filled"].tolist() == [3]
    assert bool(held["terms.text_relation.prototypes.updates"].any())
    assert "terms.novel_aware_classes.text" not in held
    steps = lines(tmp_path / "a")
    for name in (*TERMS, "text_relation", "text_contrast", "objectness", "proposals", "denoise"):
        assert sum(line[f"loss_{name}"] for line in steps if f"loss_{name}" in line) > 0, name
    assert all(line["loss_class"] == 0 for line in steps)
    assert not any(line["loss_text_relation"] for line in steps if line["epoch"] < 1)
    if parts == 1:
        assert evaluate_run(tmp_path / "a", folder).as_dict()["photos"] == 6


def test_rows_are_read_for_terms_that_are_on() -> None:
    assert needed_rows(tiny_config(*LEVELS)) == ["crop", "proposal_crop", "noun", "image"]
    objects = ("data.proposals=0", "terms.region_contrast.proposals=false")
    assert needed_rows(tiny_config(*LEVELS, *objects)) == ["crop", "image"]
    assert needed_rows(Config()) == ["crop"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("terms.novel_aware_classes.weight=1",),
            "terms.novel_aware_classes.weight: found 1 with model.text_projector false",
        ),
        (("terms.text_relation.weight=1",), "found 1 with model.relation_head false"),
        (("terms.image_contrast.weight=1",), "found 1 with model.image_head false"),
        (
            ("terms.instance_contrast.weight=1", "terms.instance_contrast.regions=proposals"),
            "terms.instance_contrast.regions: found 'proposals' with data.proposals 0",
        ),
        (("terms.region_contrast.proposals=true",), "found True with data.proposals 0"),
    ],
)
def test_a_term_without_what_it_needs_is_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as fault:
        check_terms(tiny_config(*options))
    assert "--set" in str(fault.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("matcher.class_agnostic=true", "matcher.class_agnostic: found True, expected false without"),
        ("model.relation_head=true", "model.relation_head: found True, expected false without"),
        ("terms.instance_contrast.gate=2", "terms.instance_contrast.gate: found 2"),
        ("terms.instance_contrast.queue=-1", "terms.instance_contrast.queue: found -1"),
        ("terms.instance_relation.temperature=0", "terms.instance_relation.temperature: found 0"),
        ("terms.novel_aware_classes.s_delta=0", "terms.novel_aware_classes.s_delta: found 0"),
        ("terms.text_relation.ramp=0", "terms.text_relation.ramp: found 0"),
        ("terms.image_contrast.scale=-1", "terms.image_contrast.scale: found -1"),
    ],
)
def test_options_out_of_range_are_refused(options: str, message: str) -> None:
    with pytest.raises(UserError, match=f"option {message}"):
        tiny_config(options)
