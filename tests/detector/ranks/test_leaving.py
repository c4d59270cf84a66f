"""Stopping and resuming a run during an evaluation, with data workers, on a full disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index import open_index
from cckt.detector.data.dataset import TrainingPhotos, batches
from cckt.detector.data.schedule import Schedule
from cckt.detector.runs import checkpoints
from cckt.detector.training import run as run_module
from cckt.detector.training.train import finished, train
from tests.detector.tiny import CONCEPTS, make_data, tiny_config, write_column
from tests.detector.training.test_train import curve, equal, weights
from tests.places import ROOT

OFTEN = ("train.evaluate_every=1", "train.ema_decay=0.9", "model.dropout=0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_data(tmp_path_factory.mktemp("data"), photos=6)
    index = open_index(data)
    priors = np.random.default_rng(0).random((len(index), CONCEPTS), dtype=np.float32)
    write_column(data, index, "priors/clip", priors)
    return data


@pytest.fixture(scope="module")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "unbroken"
    train(tiny_config(*OFTEN), folder, folder, run)
    return run


def evaluations(run: Path) -> list[int]:
    return [line["step"] for line in curve(run) if line["kind"] == "evaluation"]


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_an_evaluation_missed_at_a_stop_runs_after_the_resume(
    folder: Path, unbroken: Path, tmp_path: Path, stop: int
) -> None:
    run = tmp_path / "run"
    assert train(tiny_config(*OFTEN), folder, folder, run, stop_after=stop)["stopped"] == "stop_after"
    train(tiny_config(*OFTEN), folder, folder, run, resume=True)
    assert evaluations(run) == [3, 6, 9]
    assert curve(run) == curve(unbroken)
    assert equal(weights(run), weights(unbroken))


def test_an_evaluation_missing_from_the_checkpoint_is_logged_once(
    folder: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny_config(*OFTEN), folder, folder, run, stop_after=3)
    with (run / "metrics.jsonl").open("a") as log:  # state after a kill right after the evaluation
        log.write(json.dumps({"kind": "evaluation", "step": 3, "ap": 0.5}) + "\n")
    train(tiny_config(*OFTEN), folder, folder, run, resume=True)
    assert curve(run) == curve(unbroken)


class KillInEvaluation(Silent):
    """Send SIGTERM to this process during the n-th evaluation."""

    def __init__(self, evaluation: int) -> None:
        self.left, self.label = evaluation, ""

    def start(self, label: str, total: int, unit: str) -> None:
        self.label = label
        self.left -= label == "detect"

    def advance(self, n: int = 1, **figures: float) -> None:
        if self.label == "detect" and self.left == 0:
            self.left = -1
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("evaluation", [1, 3])
def test_a_signal_stops_an_evaluation_which_runs_after_the_resume(
    folder: Path, unbroken: Path, tmp_path: Path, evaluation: int
) -> None:
    run, options = tmp_path / "run", (*OFTEN, "inference.batch=2")
    metrics = train(tiny_config(*options), folder, folder, run, progress=KillInEvaluation(evaluation))
    assert (metrics["stopped"], metrics["step"]) == ("SIGTERM", 3 * evaluation)
    assert evaluations(run) == [3 * n for n in range(1, evaluation)]
    assert finished(run) == {}
    newest, _ = checkpoints.newest_checkpoint(run)
    assert newest is not None
    assert newest.name == f"step-{3 * evaluation:08d}"
    train(tiny_config(*options), folder, folder, run, resume=True)
    assert evaluations(run) == [3, 6, 9]
    assert [line for line in curve(run) if line["kind"] == "train"] == [
        line for line in curve(unbroken) if line["kind"] == "train"
    ]
    assert finished(run)


def test_the_best_value_of_the_last_evaluation_is_saved(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(*OFTEN), folder, folder, run, max_steps=4)
    newest, _ = checkpoints.newest_checkpoint(run)
    assert newest is not None
    assert checkpoints.load_state(newest)["best"] >= 0


def test_a_group_signal_leaves_workers_running_until_the_checkpoint_is_written(
    folder: Path, tmp_path: Path
) -> None:
    """torchrun, timeout and systemd send a signal to every process of the group."""
    run = tmp_path / "run"
    script = (
        "import sys; from pathlib import Path; from tests.detector.tiny import tiny_config\n"
        "from cckt.detector.training.train import train\n"
        "config = tiny_config('data.workers=2', 'data.cache_photos=0', 'train.epochs=2000')\n"
        "print(train(config, Path(sys.argv[1]), None, Path(sys.argv[2]))['stopped'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    ) as process:
        log, deadline = run / "metrics.jsonl", time.monotonic() + 120
        while not (log.is_file() and log.read_bytes().count(b"\n") > 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (0, "SIGTERM"), err
    newest, torn = checkpoints.newest_checkpoint(run)
    assert newest is not None
    assert torn == []


def test_prefetched_batches_are_the_same_batches(folder: Path) -> None:
    photos = TrainingPhotos(folder, tiny_config())
    assert photos.fits_in_memory
    schedule = Schedule(len(photos), 0, 2, first_step=0, last_step=5)
    in_place = list(batches(photos, schedule))
    ahead = list(batches(photos, schedule, ahead=True))
    assert [one.rows for one in ahead] == [one.rows for one in in_place]
    assert len(ahead) == 5
    assert all((a.images == b.images).all() for a, b in zip(ahead, in_place, strict=True))


def test_a_full_disk_is_reported_and_no_partial_checkpoint_remains(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", checkpoints.write_bytes

    def write_bytes(path: Path, content: bytes) -> None:
        if "step-00000004" in str(path) and path.name == "state.pt":
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, content)

    monkeypatch.setattr(checkpoints, "write_bytes", write_bytes)
    config = tiny_config("train.checkpoint_every=2")
    with pytest.raises(UserError, match=r"step-00000004: the checkpoint could not .*No space left.*--resume"):
        train(config, folder, None, run)
    assert [one.name for one in (run / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    assert train(config, folder, None, run, resume=True)["step"] == 9


def test_partial_checkpoints_of_a_killed_run_are_removed(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(), folder, None, run, max_steps=2)
    partial = run / "checkpoints" / ".step-00000002.123.partial"
    partial.mkdir()
    (run / "checkpoints" / "step-mine").mkdir()
    train(tiny_config(), folder, None, run, resume=True)
    assert not partial.exists()
    assert (run / "checkpoints" / "step-mine").is_dir()


def test_a_run_without_an_intact_checkpoint_cannot_be_resumed(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(), folder, None, run, max_steps=1)
    (run / "checkpoints" / "step-00000001" / "state.pt").write_bytes(b"")
    (run / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"found no intact checkpoint \(1 are torn\), .*delete the folder and train"
    ):
        train(tiny_config(), folder, None, run, resume=True)
    with pytest.raises(UserError, match="already holds a run; delete it, or give another --out"):
        train(tiny_config(), folder, None, run)


def test_a_resumed_finished_run_is_evaluated_by_its_new_weights(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(), folder, folder, run, max_steps=2)
    assert checkpoints.evaluation_weights(run).parent == run
    assert finished(run)
    train(tiny_config(), folder, folder, run, resume=True, stop_after=2)
    assert checkpoints.evaluation_weights(run).parent.name == "step-00000004"
    assert finished(run) == {}
    assert json.loads((run / "metrics.json").read_text())["stopped"] == "stop_after"


def test_max_steps_are_saved(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(), folder, None, run, max_steps=4, stop_after=1)
    assert run_module.Folders.load(run).max_steps == 4


def test_accumulation_may_change_on_resume(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(), folder, None, run, max_steps=2)
    assert train(tiny_config("train.accumulate=2"), folder, None, run, resume=True)["step"] == 9


def test_invalid_options_create_no_files(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for out, options, arguments, message in (
        (file, (), {}, r"file: could not be used because a part of this path is a file"),
        (file / "below", (), {}, r"file: could not be used because a part of this path is a file"),
        (tmp_path / "a", (), {"max_steps": 0}, "--max-steps 0: expected at least 1"),
        (tmp_path / "a", (), {"stop_after": -1}, "--stop-after -1: expected at least 1"),
        (tmp_path / "a", ("train.best_metric=ap50_novell",), {}, "best_metric: found .*expected one of ap, "),
        (tmp_path / "a", ("model.attention_kernel=triton",), {}, "attention_kernel: found 'triton', but"),
    ):
        with pytest.raises(UserError, match=message):
            train(tiny_config(*options), folder, None, out, **arguments)
    assert sorted(tmp_path.iterdir()) == [file], "found files of a run, expected none"
