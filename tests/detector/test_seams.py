"""The seams: a toy student, term and teacher rows, added without touching the library.

Each is one class and one row in a table. With them a run trains, resumes to the bit, evaluates and predicts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.store import open_column
from cckt.detector.config import terms as term_sections
from cckt.detector.config.config import Config, DataConfig, apply_overrides, load_config
from cckt.detector.config.terms import TermConfig
from cckt.detector.data import teacher_rows
from cckt.detector.data.row_source import RowSource, SampleView
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.losses import objective
from cckt.detector.losses.terms.term import StepInputs, Term
from cckt.detector.runs.run_folder import Facts
from cckt.detector.students import build
from cckt.detector.students.contract import DetectionLoss, Pairs, PresentText, Student, StudentOutput
from cckt.detector.students.detection_loss import detection_losses
from cckt.detector.students.matching import assign, matching_costs
from cckt.detector.students.targets import PaddedTargets, TeacherRows
from cckt.detector.training.train import train
from tests.detector.tiny import CONCEPTS, WIDTH, make_data, tiny_config, unit_rows, write_column


class ToyStudent(Student):
    """A grid of regions over one strided convolution: no queries, no transformer."""

    def __init__(self, config: Config, embedding_dim: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.config = config
        self.body = nn.Conv2d(3, 16, 16, stride=16)
        self.box = nn.Linear(16, 4)
        self.region = nn.Linear(16, embedding_dim)
        self.scale = nn.Parameter(torch.tensor(5.0))

    def encode(self, images: Tensor, padding: Tensor | None) -> Tensor:
        maps = self.body(images)
        if padding is not None:  # a padded cell keeps its region, which must not depend on the batch
            kept = F.max_pool2d((~padding[:, None]).float(), 16, ceil_mode=False)
            maps = maps * kept
        cells: Tensor = F.adaptive_avg_pool2d(maps, 3).flatten(2).transpose(1, 2)
        return cells

    def decode(
        self, encoded: Tensor, text: Tensor, guidance: PresentText | None, training: Any = None
    ) -> StudentOutput:
        region = F.normalize(self.region(encoded).float(), dim=-1)
        boxes = self.box(encoded).float().sigmoid()
        return StudentOutput(boxes[None], (region @ text.t() * self.scale)[None], region[None])

    def match(self, output: StudentOutput, targets: PaddedTargets, text: Tensor) -> Pairs:
        costs = matching_costs(output, targets, text, self.config.matcher, self.config.model.tau)
        return assign([costs], targets.counts, [1])[0]

    def detection_loss(
        self,
        output: StudentOutput,
        targets: PaddedTargets,
        pairs: Pairs,
        present: Tensor | None,
        training: Any,
    ) -> DetectionLoss:
        return DetectionLoss(detection_losses(output, targets, pairs, self.config.loss))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"backbone": list(self.body.parameters()), "rest": [*self.box.parameters(), *self.rest()]}

    def rest(self) -> list[nn.Parameter]:
        return [*self.region.parameters(), self.scale]


@dataclass(frozen=True)
class ToyTermConfig(TermConfig):
    """Options of the toy term."""

    length: int = 4
    """Embeddings that it remembers."""


class ToyTerm(Term):
    """Distance of paired regions to their rows, and of all regions to a queue of past rows, a buffer."""

    name = "toy"
    needs = ("brightness",)
    options: ToyTermConfig

    def __init__(self, options: TermConfig, tau: float, embedding_dim: int) -> None:
        super().__init__(options, tau, embedding_dim)
        assert isinstance(options, ToyTermConfig)
        self.register_buffer("queue", torch.zeros(options.length, embedding_dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, step: StepInputs) -> dict[str, Tensor]:
        rows, pairs, region = step.targets.teacher["brightness"], step.pairs, step.output.region
        known = rows.valid[pairs.images, pairs.objects[0]]
        own = rows.values[pairs.images, pairs.objects[0]]
        found = region[-1, pairs.images, pairs.regions[-1]]
        loss = ((found - own).square().sum(-1) * known).sum()
        queue, steps = self.get_buffer("queue"), self.get_buffer("steps")
        loss = loss + (region[-1].mean((0, 1)) - queue.mean(0)).square().sum()
        fresh = own[known].detach()[: self.options.length]
        queue.copy_(torch.cat([fresh, queue])[: self.options.length])
        steps.add_(1)
        return {self.name: self.options.weight * loss}


class BrightnessRows(RowSource):
    """Teacher rows from a column of the test's own."""

    def __init__(self, data: Path, index: Index, options: DataConfig) -> None:
        self.columns = [open_column(data, "crops", index_digest=index.digest)]

    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        column = self.columns[0]
        values = torch.from_numpy(column.take(view.objects).astype(np.float32)).flip(-1)
        return TeacherRows(values, torch.from_numpy(column.valid(view.objects)))


@pytest.fixture(autouse=True)
def rows_in_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the library needs to know of the three."""
    monkeypatch.setitem(build.STUDENTS, "toy", ToyStudent)
    monkeypatch.setitem(term_sections.TERM_SECTIONS, "toy", ToyTermConfig)
    monkeypatch.setitem(objective.TERMS, "toy", ToyTerm)
    monkeypatch.setitem(teacher_rows.ROW_SOURCES, "brightness", BrightnessRows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = make_data(tmp_path / "data", photos=6, sizes=((64, 64), (80, 64)))
    index = open_index(data)
    write_column(data, index, "priors/clip", np.full((6, CONCEPTS), 0.8, np.float32))
    return data


def toy_config(*more: str, student: str = "toy") -> Config:
    """A tiny config with the toys; made in the test, so that the toy section is in its defaults."""
    plain = tiny_config().to_dict()
    config = Config.from_dict({name: value for name, value in plain.items() if name != "terms"})
    toys = [f"model.student={student}", "terms.toy.weight=0.5", "terms.toy.length=3", "train.epochs=4"]
    return apply_overrides(config, [*toys, "terms.region_contrast.first_epoch=1", *more])


def curve(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k.startswith("loss_")} for line in lines if line["kind"] == "train"
    ]


def tensors(path: Path) -> dict[str, Tensor]:
    return dict(safetensors.torch.load_file(path))


def test_options_of_a_new_term_are_read_written_and_checked(tmp_path: Path) -> None:
    config = toy_config()
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert "[terms.toy]\nweight = 0.5\nfirst_epoch = 0\nlength = 3\n" in path.read_text()
    assert load_config(path) == config


@pytest.mark.parametrize("student", ["toy", "deformable_detr"])
def test_a_run_with_toys_resumes_to_the_bit_evaluates_and_predicts(
    folder: Path, tmp_path: Path, student: str
) -> None:
    config = toy_config(student=student)
    train(config, folder, None, tmp_path / "a")
    train(config, folder, None, tmp_path / "b", max_steps=5)
    train(config, folder, None, tmp_path / "b", resume=True, max_steps=12)
    lines = curve(tmp_path / "a")
    assert len(lines) == 12
    assert all({"loss_toy", "loss_contrast", "loss_giou"} <= line.keys() for line in lines)
    assert all(line["loss_toy"] > 0 for line in lines[4:])
    assert curve(tmp_path / "b") == lines
    one, other = (tensors(tmp_path / run / "model.safetensors") for run in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (
        tensors(tmp_path / run / "checkpoints" / "step-00000012" / "objective.safetensors") for run in "ab"
    )
    assert set(one) == {"terms.toy.queue", "terms.toy.steps"}
    assert int(one["terms.toy.steps"]) == 12
    assert bool(one["terms.toy.queue"].any())
    assert all(torch.equal(one[name], other[name]) for name in one)
    facts = Facts.load(tmp_path / "a")
    assert facts.rows_recipes["brightness"]["teacher"]["name"] == "tiny/random:0"
    metrics = evaluate_run(tmp_path / "a", folder)
    assert metrics.as_dict()["photos"] == 6


def test_a_buffer_missing_from_a_checkpoint_is_an_error(folder: Path, tmp_path: Path) -> None:
    train(toy_config(), folder, None, tmp_path / "run", max_steps=2)
    (tmp_path / "run" / "checkpoints" / "step-00000002" / "objective.safetensors").unlink()
    with pytest.raises(Exception, match="no intact checkpoint"):
        train(toy_config(), folder, None, tmp_path / "run", resume=True, max_steps=4)


def test_rows_are_only_read_for_terms_that_are_on(folder: Path, tmp_path: Path) -> None:
    config = toy_config("terms.toy.weight=0")
    assert objective.needed_rows(config) == ["crop"]
    assert objective.needed_rows(toy_config()) == ["crop", "brightness"]
    assert unit_rows(1, 0).shape[1] == WIDTH
