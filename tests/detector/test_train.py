from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from cache_builder.errors import UserError
from cache_builder.index import open_index
from cache_builder.progress import Silent
from detector import checkpoint as store
from detector import contrast
from detector.batch import collate
from detector.data import Place, TrainingPhotos
from detector.distributed import World, joined
from detector.model import CCKTDetector
from detector.optim import parameter_groups
from detector.preflight import gather
from detector.step import Stepper
from detector.train import train
from tests.detector.tiny import CONCEPTS, make_data, tiny_config, write_column

CPU = World(0, 1, torch.device("cpu"))
TIMES = ("seconds_", "images_per_s", "memory_mib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of two sizes, some without boxes, one box without a valid crop."""
    return make_data(tmp_path_factory.mktemp("data"), photos=6, sizes=((64, 64), (80, 64)))


def curve(run):
    """The training log without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]


def weights(run):
    return store.load_weights(run / "model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "a"
    metrics = train(tiny_config(*EMA), folder, None, run)
    return run, metrics


EMA = ("train.ema_decay=0.9", "train.guidance_drop=0.3", "model.dropout=0.1", "loss.teacher_bank=class")


def test_a_run_leaves_its_folder_as_promised(unbroken):
    run, metrics = unbroken
    assert metrics["step"] == 9
    assert metrics["epochs"] == 3
    assert metrics["stopped"] == ""
    assert store.run_config(run) == tiny_config(*EMA)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert json.loads((run / "versions.json").read_text())["torch"] == importlib.metadata.version("torch")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert {"seconds_data", "seconds_forward", "seconds_matching", "seconds_backward"} <= lines[0].keys()
    contrast = [line["loss_contrast"] for line in lines]  # 0 later too where a batch has no valid crop
    assert contrast[:3] == [0] * 3
    assert sum(value > 0 for value in contrast[3:]) >= 4
    assert [line["lr"] for line in lines] == pytest.approx([1e-4] * 6 + [1e-5] * 3)
    assert any((run / "tensorboard").iterdir())
    assert not list(run.rglob("*.partial"))
    newest, torn = store.newest_checkpoint(run)
    assert newest.name == "step-00000009"
    assert torn == []
    assert equal(weights(run), store.load_weights(newest / "average.safetensors"))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(folder, unbroken, tmp_path):
    train(tiny_config(*EMA), folder, None, tmp_path / "same", max_steps=4)
    assert curve(tmp_path / "same") == curve(unbroken[0])[:4]
    train(tiny_config(*EMA, "train.seed=1"), folder, None, tmp_path / "other", max_steps=1)
    assert curve(tmp_path / "other")[0] != curve(unbroken[0])[0]


@pytest.mark.parametrize("stop", [1, 5])
def test_a_stopped_run_resumes_to_the_bit(folder, unbroken, tmp_path, stop):
    config = tiny_config(*EMA)
    train(config, folder, None, tmp_path / "run", max_steps=stop)
    torch.manual_seed(99)
    np.random.seed(99)
    metrics = train(config, folder, None, tmp_path / "run", resume=True)
    assert metrics["step"] == 9
    assert curve(tmp_path / "run") == curve(unbroken[0])
    assert equal(weights(tmp_path / "run"), weights(unbroken[0]))


class KillAfter(Silent):
    """Sends this process a signal in the middle of a run."""

    def __init__(self, step, number):
        self.left, self.number, self.notes = step, number, []

    def advance(self, n=1, **figures):
        self.left -= n
        if self.left == 0:
            os.kill(os.getpid(), self.number)

    def note(self, message):
        self.notes.append(message)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_leaves_a_checkpoint_to_resume_from(folder, unbroken, tmp_path, name):
    before = signal.getsignal(signal.SIGTERM)
    number = getattr(signal, name)
    metrics = train(tiny_config(*EMA), folder, None, tmp_path / "run", progress=KillAfter(4, number))
    assert metrics["stopped"] == name
    assert metrics["step"] == 5
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "run" / "model.safetensors").exists()
    if name == "SIGTERM":
        train(tiny_config(*EMA), folder, None, tmp_path / "run", resume=True)
        assert curve(tmp_path / "run") == curve(unbroken[0])


def test_a_torn_newest_checkpoint_costs_steps_but_no_equality(folder, unbroken, tmp_path):
    config, run = tiny_config(*EMA, "train.checkpoint_every=2"), tmp_path / "run"
    train(config, folder, None, run, max_steps=5)
    torn = run / "checkpoints" / "step-00000005" / "state.pt"
    torn.write_bytes(torn.read_bytes()[:100])
    progress = KillAfter(0, 0)
    train(config, folder, None, run, resume=True, progress=progress)
    assert any("step-00000005" in note and "torn" in note for note in progress.notes)
    assert curve(run) == curve(unbroken[0])
    assert equal(weights(run), weights(unbroken[0]))


def test_a_folder_with_a_run_is_not_overwritten_and_another_run_not_resumed(folder, unbroken, tmp_path):
    run, config = unbroken[0], tiny_config(*EMA)
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        train(config, folder, None, run)
    with pytest.raises(
        UserError, match=r"option train\.lr: found 0\.5, but the run in .* begun with 0\.0001"
    ):
        train(tiny_config(*EMA, "train.lr=0.5"), folder, None, run, resume=True)
    other = make_data(tmp_path / "data", photos=3)
    with pytest.raises(UserError, match=r"begun on other data \(index_digest differs\)"):
        train(config, other, None, run, resume=True)
    with pytest.raises(UserError, match=r"no config\.toml"):
        train(config, folder, None, tmp_path / "none", resume=True)


def test_a_photo_that_breaks_is_counted_and_the_run_goes_on(tmp_path):
    folder = make_data(tmp_path / "data", photos=4)
    (folder / "photos" / "p3.png").write_bytes(b"")
    progress = KillAfter(0, 0)
    metrics = train(tiny_config("train.epochs=2"), folder, None, tmp_path / "run", progress=progress)
    assert metrics["photos_unreadable"] == 1
    assert len([note for note in progress.notes if "p3.png" in note]) == 1
    assert metrics["step"] == 4


def test_a_diverged_run_stops_with_its_batch_saved(folder, tmp_path, monkeypatch):
    def poisoned(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        return type(output)(output.boxes, output.logits * float("nan"), output.region)

    forward = CCKTDetector.forward
    monkeypatch.setattr(CCKTDetector, "forward", poisoned)
    config = tiny_config("train.nonfinite_limit=3")
    with pytest.raises(UserError, match=r"3 steps in a row, up to step 2, .*nonfinite-00000002.*train\.lr"):
        train(config, folder, None, tmp_path / "run")
    saved = next((tmp_path / "run").glob("nonfinite-*.safetensors"))
    assert store.load_weights(saved)["images.0"].dtype == torch.uint8


def test_one_bad_step_is_skipped_and_changes_no_weight(folder, tmp_path, monkeypatch):
    stepper, batch = make_stepper(folder)
    before = {name: value.clone() for name, value in stepper.model.state_dict().items()}
    monkeypatch.setattr("detector.step.normalise", lambda images, *_: images.float() * float("nan"))
    result = stepper([batch], 0)
    assert not result.finite
    assert all(torch.equal(value, before[name]) for name, value in stepper.model.named_parameters())
    monkeypatch.undo()


def make_stepper(folder, *assignments, world=CPU, rows=(0, 1, 3, 5), part=slice(None)):
    """A stepper whose optimiser is plain descent, so that one step shows the gradient, and one batch."""
    config = tiny_config(
        "model.norm=group",
        "model.dropout=0",
        "train.clip_norm=0",
        "train.lr=1",
        "train.backbone_lr_factor=1",
        "train.sampling_lr_factor=1",
        "loss.contrast_from_epoch=0",
        "data.flip=0",
        "data.random_crop=false",
        "data.short_sides=64",
        "train.guidance_order=row",
        *assignments,
    )
    found = gather(config, folder)
    torch.manual_seed(0)
    model = CCKTDetector(config.model, 16, 4)
    optimizer = torch.optim.SGD(parameter_groups(model, config.train), lr=1)
    photos = TrainingPhotos(folder, config, 16)
    batch = collate([photos[Place(0, row, row)] for row in rows[part]])
    return Stepper(world.wrap(model), found.text, config, world, optimizer, None, 10), batch


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("square"), photos=8)


def assert_same_step(found, expected, start):
    """Every tensor's gradient (plain descent at rate 1 shows it) differs by 1e-5 of its length, and of the
    whole gradient's for tensors that hardly have one."""
    before = start.model.state_dict()
    whole = torch.stack([(value - before[name]).norm() for name, value in expected.items()]).norm()
    for name, value in expected.items():
        own = (value - before[name]).norm()
        assert (found[name] - value).norm() <= 1e-5 * torch.maximum(own, 0.1 * whole), name


def test_accumulated_parts_have_the_gradient_of_the_whole(square):
    whole, batch = make_stepper(square)
    whole([batch], 0)
    parted, first = make_stepper(square, part=slice(0, 2))
    second = make_stepper(square, part=slice(2, 4))[1]
    parted([first, second], 0)
    assert_same_step(parted.model.state_dict(), whole.model.state_dict(), make_stepper(square)[0])


EVERYTHING = ("model.reference=guided", "train.denoise_groups=2", "train.one_to_many=3")
WITHOUT = ("model.guidance=false", "matcher.cost_similarity=0", "loss.loss_contrast=0")


@pytest.mark.parametrize("rows", [(1, 2, 3, 5), (0, 4)], ids=["objects", "none"])
@pytest.mark.parametrize("contrast_from", [0, 5], ids=["contrast", "no contrast yet"])
@pytest.mark.parametrize(
    "assignments",
    [
        (),
        WITHOUT,
        (*WITHOUT, "model.class_embedding=own", "inference.classification=head"),
        ("model.class_head=linear",),
        ("model.reference=encoder",),
        EVERYTHING,
        (*EVERYTHING, "loss.loss_contrast=0"),
        ("train.guidance_none=1",),
    ],
    ids=str,
)
def test_every_step_gives_every_parameter_a_gradient(square, assignments, contrast_from, rows):
    """Which ranks rely on: what stays without one on a single rank would hang or end the others."""
    options = (*assignments, f"loss.contrast_from_epoch={contrast_from}")
    stepper, batch = make_stepper(square, *options, rows=rows)
    stepper.optimizer.zero_grad = lambda set_to_none: None
    stepper([batch], 0)
    learnt = {name: one for name, one in stepper.model.named_parameters() if one.requires_grad}
    assert [name for name, one in learnt.items() if one.grad is None] == []


TOGETHER = {
    "photos alone": (),
    "the batch": ("loss.negatives=batch",),
    "a crop of each class": ("loss.teacher_bank=class",),
    "a crop of each class of the batch": ("loss.teacher_bank=class", "loss.negatives=batch"),
    "cells that words chose": ("model.reference=guided",),
}


def first_of_the_class(concepts, known, chance):
    """Chance differs between ranks and one process; what is drawn by it must not matter."""
    flat, have = concepts.flatten(), known.flatten()
    same = (flat[:, None] == flat[None]) & have[None]
    return same.int().argmax(1).view_as(concepts) if len(flat) else concepts


def one_rank(rank, square, port, out, rows, assignments):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined("cpu") as world:
        part = slice(rank * 2, rank * 2 + 2)
        stepper, batch = make_stepper(square, *assignments, world=world, rows=rows, part=part)
        assert (batch.objects == 0) == (rows[part.start] % 4 == 0)
        stepper([batch], 0)
        torch.save(stepper.model.module.state_dict(), f"{out}/rank{rank}.pt")


@pytest.mark.parametrize("rows", [(0, 4, 1, 3), (7, 2, 0, 4), (1, 3, 2, 6)], ids=str)
@pytest.mark.parametrize("assignments", TOGETHER.values(), ids=TOGETHER)
def test_two_ranks_have_the_gradient_of_one_with_the_whole_batch(
    square, tmp_path, monkeypatch, rows, assignments
):
    """Photos 0 and 4 have no boxes."""
    monkeypatch.setattr(contrast, "_draw", first_of_the_class)
    port = 20000 + os.getpid() % 20000
    given = (square, port, str(tmp_path), rows, assignments)
    torch.multiprocessing.start_processes(one_rank, given, 2, start_method="fork")
    whole, batch = make_stepper(square, *assignments, rows=rows)
    whole([batch], 0)
    start = make_stepper(square, *assignments)[0].model.state_dict()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(ranks[0][name], ranks[1][name], atol=0, rtol=0)
        assert ranks[0][name].shape == value.shape
    assert_same_step(ranks[0], whole.model.state_dict(), make_stepper(square, *assignments)[0])
    assert any(not torch.equal(start[name], value) for name, value in ranks[0].items())


def test_more_present_concepts_than_queries_train(folder, tmp_path):
    config = tiny_config("model.queries=2", "train.guidance_add=3")
    assert train(config, folder, None, tmp_path / "run", max_steps=2)["skipped"] == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(folder, tmp_path, precision):
    config = tiny_config(f"train.precision={precision}")
    metrics = train(config, folder, None, tmp_path / "run", max_steps=2)
    assert metrics["skipped"] == 0


def test_evaluation_keeps_the_best_and_leaves_the_training_alone(folder, tmp_path):
    index = open_index(folder)
    priors = np.random.default_rng(0).random((len(index), CONCEPTS), dtype=np.float32)
    write_column(folder, index, "priors/clip", priors)
    plain = tiny_config("train.epochs=2")
    train(plain, folder, None, tmp_path / "plain")
    often = tiny_config("train.epochs=2", "train.evaluate_every=1")
    metrics = train(often, folder, folder, tmp_path / "often")
    assert 0 <= metrics["evaluation"]["ap50_base"] <= 1
    assert metrics["evaluation"]["figures"]["prior"] == dataclasses.asdict(often.prior)
    lines = curve(tmp_path / "often")
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6]
    assert [line for line in lines if line["kind"] == "train"] == curve(tmp_path / "plain")
    assert (tmp_path / "often" / "best.safetensors").is_file()
    assert equal(weights(tmp_path / "often"), weights(tmp_path / "plain"))


def test_a_module_without_ranks_is_left_as_it_is():
    model = nn.Linear(1, 1)
    assert CPU.wrap(model) is model
