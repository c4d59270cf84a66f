from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import open_column
from cckt.detector.ranks.world import World
from cckt.detector.runs import checkpoints, run_folder
from cckt.detector.runs import weights as weight_files
from cckt.detector.runs.base_text import load_base_text
from cckt.detector.runs.folder_guard import training_lock
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.training.train import train
from tests.detector.tiny import CONCEPTS, make_data, tiny_config, write_column

TIMES = ("seconds_", "images_per_s", "memory_mib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of two sizes, some without boxes, one box without a valid crop."""
    return make_data(tmp_path_factory.mktemp("data"), photos=6, sizes=((64, 64), (80, 64)))


def curve(run):
    """Return the lines of the training log without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]


def weights(run):
    return weight_files.load_weights(run / "model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "a"
    metrics = train(tiny_config(*EMA), folder, None, run)
    return run, metrics


EMA = (
    "train.ema_decay=0.9",
    "guidance.drop=0.3",
    "model.dropout=0.1",
    "terms.region_contrast.teacher_bank=class",
)


def test_a_finished_run_has_a_complete_folder(unbroken):
    run, metrics = unbroken
    assert metrics["step"] == 9
    assert metrics["epochs"] == 3
    assert metrics["stopped"] == ""
    assert run_folder.run_config(run) == tiny_config(*EMA)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert json.loads((run / "versions.json").read_text())["torch"] == importlib.metadata.version("torch")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert {"seconds_data", "seconds_forward", "seconds_matching", "seconds_backward"} <= lines[0].keys()
    contrast = [line["loss_contrast"] for line in lines]  # also 0 later if a batch has no valid crop
    assert contrast[:3] == [0] * 3
    assert sum(value > 0 for value in contrast[3:]) >= 4
    assert [line["lr"] for line in lines] == pytest.approx([1e-4] * 6 + [1e-5] * 3)
    assert any((run / "tensorboard").iterdir())
    assert not list(run.rglob("*.partial"))
    newest, torn = checkpoints.newest_checkpoint(run)
    assert newest.name == "step-00000009"
    assert torn == []
    assert equal(weights(run), weight_files.load_weights(newest / "average.safetensors"))


def test_equal_seeds_give_equal_runs_and_others_do_not(folder, unbroken, tmp_path):
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


class KeptNotes(Silent):
    """Keeps the notes that it is told."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


class KillAfter(KeptNotes):
    """Sends a signal to this process in the middle of a run."""

    def __init__(self, step, number):
        super().__init__()
        self.left, self.number = step, number

    def advance(self, n=1, **figures):
        self.left -= n
        if self.left == 0:
            os.kill(os.getpid(), self.number)


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


def test_a_torn_checkpoint_is_skipped_and_the_run_stays_equal(folder, unbroken, tmp_path):
    config, run = tiny_config(*EMA, "train.checkpoint_every=2"), tmp_path / "run"
    train(config, folder, None, run, max_steps=5)
    torn = run / "checkpoints" / "step-00000005" / "state.pt"
    torn.write_bytes(torn.read_bytes()[:100])
    progress = KillAfter(0, 0)
    train(config, folder, None, run, resume=True, progress=progress)
    assert any("step-00000005" in note and "torn" in note for note in progress.notes)
    assert curve(run) == curve(unbroken[0])
    assert equal(weights(run), weights(unbroken[0]))


def test_a_start_after_a_kill_in_the_first_checkpoint_leaves_nothing_of_it(folder, tmp_path):
    run = tmp_path / "run"
    train(tiny_config(), folder, None, run, max_steps=2)
    (run / "model.safetensors").unlink()
    left = run / "checkpoints" / ".step-00000002.99999999.partial"
    (run / "checkpoints" / "step-00000002").rename(left)
    (left / ".model.safetensors.0bbfd16a.99999999.partial").write_bytes(b"half")
    train(tiny_config(), folder, None, run, max_steps=2)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_run_is_neither_overwritten_nor_resumed_with_other_options_or_data(folder, unbroken, tmp_path):
    run, config = unbroken[0], tiny_config(*EMA)
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        train(config, folder, None, run)
    with pytest.raises(
        UserError, match=r"option train\.lr: found 0\.5, but the run in .* was started with 0\.0001"
    ):
        train(tiny_config(*EMA, "train.lr=0.5"), folder, None, run, resume=True)
    other = make_data(tmp_path / "data", photos=3)
    with pytest.raises(UserError, match=r"started with other data \(index_digest differs\)"):
        train(config, other, None, run, resume=True)
    with pytest.raises(UserError, match=r"no config\.toml"):
        train(config, folder, None, tmp_path / "none", resume=True)


def test_an_unreadable_photo_is_counted_and_the_run_continues(tmp_path):
    folder = make_data(tmp_path / "data", photos=4)
    (folder / "photos" / "p3.png").write_bytes(b"")
    progress = KillAfter(0, 0)
    metrics = train(tiny_config("train.epochs=2"), folder, None, tmp_path / "run", progress=progress)
    assert metrics["photos_unreadable"] == 1
    assert len([note for note in progress.notes if "p3.png" in note]) == 1
    assert metrics["step"] == 4
    mosaics = tiny_config("train.epochs=2", "data.mosaic=1.0", "data.mosaic_epochs=2")
    progress = KillAfter(0, 0)
    metrics = train(mosaics, folder, None, tmp_path / "mosaics", progress=progress)
    assert metrics["photos_unreadable"] == 1, "not one for each mosaic that shows it"
    assert len([note for note in progress.notes if "p3.png" in note]) == 1


def test_a_diverged_run_stops_with_its_batch_saved(folder, tmp_path, monkeypatch):
    def with_nan_logits(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        return type(output)(output.boxes, output.logits * float("nan"), output.region)

    forward = DeformableDETR.forward
    monkeypatch.setattr(DeformableDETR, "forward", with_nan_logits)
    config = tiny_config("train.nonfinite_limit=3")
    with pytest.raises(
        UserError, match=r"3 consecutive steps, up to step 2, .*nonfinite-00000002.*train\.lr"
    ):
        train(config, folder, None, tmp_path / "run")
    saved = next((tmp_path / "run").glob("nonfinite-*.safetensors"))
    assert weight_files.load_weights(saved)["images.0"].dtype == torch.uint8


def test_training_with_more_present_concepts_than_queries_works(folder, tmp_path):
    config = tiny_config("model.queries=2", "guidance.add=3")
    assert train(config, folder, None, tmp_path / "run", max_steps=2)["skipped"] == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_half_precision_works(folder, tmp_path, precision, monkeypatch):
    """Where the device has instructions for it; elsewhere it is training in fp32, and says so."""
    config, runs = tiny_config(f"train.precision={precision}"), {}
    for has in (True, False):
        monkeypatch.setattr("cckt.detector.students.precision.has_instructions", lambda *given, has=has: has)
        progress = KeptNotes()
        metrics = train(config, folder, None, tmp_path / str(has), max_steps=2, progress=progress)
        assert metrics["skipped"] == 0
        told = f"this CPU has no instructions for {precision}, so the run is computed in fp32"
        assert any(told in note for note in progress.notes) is not has
        runs[has] = weights(tmp_path / str(has))
    train(tiny_config(), folder, None, tmp_path / "single", max_steps=2)
    assert equal(runs[False], weights(tmp_path / "single"))
    assert not equal(runs[True], runs[False])


def test_evaluation_saves_the_best_weights_and_does_not_change_training(folder, tmp_path):
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
    (tmp_path / "often" / "best.safetensors").unlink()
    longer = ("train.epochs=3", "train.evaluate_every=1")
    shutil.copytree(tmp_path / "often", tmp_path / "same")
    for name, options in (("same", longer), ("often", (*longer, "train.best_metric=ap50_base"))):
        figures = train(tiny_config(*options), folder, folder, tmp_path / name, resume=True)["evaluation"]
        known = [line["ap50_all"] for line in lines if "ap50_all" in line]
        better = name == "often" or figures["ap50_all"] > max(known)  # another figure has no best yet
        assert (tmp_path / name / "best.safetensors").is_file() == better


def test_a_second_training_in_the_same_folder_is_refused(folder, tmp_path):
    run = tmp_path / "run"
    train(tiny_config(), folder, None, run, max_steps=1)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with (
        training_lock(run, World(0, 1, torch.device("cpu"))),
        pytest.raises(UserError, match=rf"process {os.getpid()} on .* is training in this folder"),
    ):
        train(tiny_config(), folder, None, run, resume=True, max_steps=2)
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {name: after[name] for name in before if name != ".training.lock"} == {
        name: content for name, content in before.items() if name != ".training.lock"
    }
    assert train(tiny_config(), folder, None, run, resume=True, max_steps=2)["step"] == 2


def test_other_files_are_not_replaced(folder, tmp_path):
    for name in ("config.toml", "data.json", "metrics.jsonl"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=r"found config\.toml in it, expected an empty folder or a run"):
        train(tiny_config(), folder, None, tmp_path, max_steps=1)
    assert {path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {"precious"}


def test_a_run_keeps_the_text_of_its_base_concepts(unbroken, folder):
    run, _ = unbroken
    facts = run_folder.Facts.load(run)
    column = open_column(folder, "text")
    rows = open_index(folder).concepts.rows("base")
    np.testing.assert_allclose(load_base_text(run, facts), column.take(rows), atol=1e-6)
