"""Several ranks as processes with gloo: shared evaluation, whole runs, and a killed rank."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import save_config
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.ranks import world
from cckt.detector.ranks.world import joined
from cckt.detector.runs import weights as weight_files
from cckt.detector.training.train import train
from tests.detector.evaluation import evaluation_world
from tests.detector.tiny import free_port, make_data, tiny_config
from tests.detector.training.test_train import curve, equal, weights
from tests.places import ROOT

CHANGING_FIGURES = ("seconds", "images_per_second", "folder")


def as_rank(rank, size, port, act, *arguments):
    """Call `act` as a launcher and the command line would."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        act(rank, *arguments)
    except UserError as error:
        arguments[-1].mkdir(exist_ok=True)
        (arguments[-1] / f"message-{rank}").write_text(str(error))
        os._exit(2)


def start(size, act, *arguments):
    """Start `size` processes that run act(rank, *arguments); the last argument is a folder."""
    port = free_port()
    # Not plain fork: threads of the evaluation engine, once started in this process, do not survive it.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["cckt.detector.training.train", "cckt.detector.evaluation.evaluate"])
    make = server.Process
    ranks = [make(target=as_rank, args=(rank, size, port, act, *arguments)) for rank in range(size)]
    for one in ranks:
        one.start()
    return ranks


def codes(ranks, seconds=600):
    for one in ranks:
        one.join(seconds)
    return [one.exitcode for one in ranks]


def evaluate_rank(rank, run, data, out):
    out.mkdir(exist_ok=True)
    metrics = evaluate_run(run, data, device="cpu", out=out / "eval")
    (out / f"rank-{rank}.json").write_text(json.dumps(metrics.as_dict()))


def figures(path):
    """Return the figures of a rank without times and folder names."""
    known = json.loads(path.read_text())
    known["figures"] = {key: one for key, one in known["figures"].items() if key not in CHANGING_FIGURES}
    return known


@pytest.mark.parametrize(("photos", "size"), [(5, 2), (2, 3)])
def test_ranks_share_the_images_and_find_what_one_process_finds(tmp_path, photos, size):
    index = evaluation_world.make_data(tmp_path / "world", photos=photos)
    evaluation_world.add_column(index, "text", evaluation_world.unit_rows(4))
    priors = np.random.default_rng(0).random((photos, 4)).astype(np.float32)
    evaluation_world.add_column(index, "priors/clip", priors)
    (index.image_root / "1.png").write_bytes(b"no photo")
    torch.manual_seed(0)
    run = evaluation_world.make_run(tmp_path / "run", evaluation_world.small_config())
    one, many = tmp_path / "one", tmp_path / "many"
    assert codes(start(1, evaluate_rank, run, index.folder, one)) == [0]
    assert codes(start(size, evaluate_rank, run, index.folder, many)) == [0] * size
    expected = (one / "eval" / "detections.json").read_bytes()
    assert len(json.loads(expected)) == 10 * (photos - 1)
    assert (many / "eval" / "detections.json").read_bytes() == expected
    wanted = figures(one / "rank-0.json")
    assert wanted["figures"]["photos_unreadable"] == 1
    for rank in range(size):
        assert figures(many / f"rank-{rank}.json") == wanted


def test_an_evaluation_error_is_raised_on_every_rank(tmp_path):
    index = evaluation_world.make_data(tmp_path / "world", photos=2)
    evaluation_world.add_column(index, "text", evaluation_world.unit_rows(4))
    run = evaluation_world.make_run(tmp_path / "run", evaluation_world.small_config(guidance=False))
    learnt = weight_files.load_weights(run / "model.safetensors")
    broken = {name: value * float("nan") if "region" in name else value for name, value in learnt.items()}
    weight_files.save_weights(run / "model.safetensors", broken)
    assert codes(start(3, evaluate_rank, run, index.folder, tmp_path / "out")) == [2, 2, 2]
    for rank in range(3):
        assert "expected finite weights" in (tmp_path / "out" / f"message-{rank}").read_text()


def join_rank(rank, victim, out):
    out.mkdir(exist_ok=True)
    if rank == victim:  # after the ranks have met, before they are a group
        dist.init_process_group = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    with joined("cpu"):
        pass


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_rank_that_dies_while_the_group_forms_ends_the_others(tmp_path, victim):
    began = time.monotonic()
    ends = codes(start(3, join_rank, victim, tmp_path / "out"), 120)
    assert ends == [-signal.SIGKILL if rank == victim else 2 for rank in range(3)]
    assert time.monotonic() - began < 60, "not the half hour of a collective"


def join_twice(rank, out):
    out.mkdir(exist_ok=True)
    kept = []

    def of_the_launcher(*given, **options):  # torchrun keeps the store, which outlives a group
        if not kept:
            kept.append(next(rendezvous(*given, **options)))
        return iter(kept)

    world.rendezvous = of_the_launcher
    for _ in range(3):
        with joined("cpu") as ranks:
            ranks.wait()


def test_ranks_join_again_with_the_same_store(tmp_path):
    assert codes(start(2, join_twice, tmp_path / "out"), 120) == [0, 0]


EVERY_TWO = ("prior.source=none", "train.checkpoint_every=2", "train.ema_decay=0.9", "train.evaluate_every=1")


def train_rank(rank, folder, resume, out):
    train(tiny_config(*EVERY_TWO), folder, folder, out, resume=resume)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), photos=6, sizes=((64, 64), (80, 64)))


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    """Return a run of two ranks; one of them reads the image without boxes."""
    out = tmp_path_factory.mktemp("ranks") / "run"
    assert codes(start(2, train_rank, folder, False, out)) == [0, 0]
    return out


def test_two_ranks_train_and_evaluate_together(unbroken):
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert (metrics["step"], metrics["skipped"], metrics["stopped"]) == (9, 0, "")
    assert metrics["evaluation"]["figures"]["prior"]["source"] == "none"
    lines = curve(unbroken)
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6, 9]
    assert (unbroken / "best.safetensors").is_file()


def test_a_killed_rank_ends_the_other_and_the_run_resumes(folder, unbroken, tmp_path):
    out = tmp_path / "run"
    ranks = start(2, train_rank, folder, False, out)
    log = out / "metrics.jsonl"
    while not log.is_file() or log.read_bytes().count(b"\n") < 4:
        assert ranks[0].is_alive()
        time.sleep(0.002)
    os.kill(ranks[1].pid, signal.SIGKILL)
    began = time.monotonic()
    assert codes(ranks, 30) == [2, -signal.SIGKILL]
    assert time.monotonic() - began < 30
    message = (out / "message-0").read_text()
    assert message.startswith(
        f"rank 1 of 2 (on {socket.gethostname()}) ended before the run did, so every rank"
    )
    assert not (out / "model.safetensors").exists()
    assert codes(start(2, train_rank, folder, True, out)) == [0, 0]
    assert curve(out) == curve(unbroken)
    assert equal(weights(out), weights(unbroken))


def torchrun(*words):
    """Start `torchrun ... -m cckt train ...` on two gloo ranks."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = ROOT
    command = [*launch, "-m", "cckt", "train", *map(str, words)]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)


def rank_of(launcher, rank):
    """Return the process id of a rank that torchrun started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            words = (process / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if parent == launcher.pid and b"RANK=%d" % rank in words:
            return int(process.name)
    raise AssertionError(f"no rank {rank} under {launcher.pid}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="finds ranks through /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_under_torchrun_a_killed_rank_ends_the_command_and_resume_continues(
    folder, unbroken, tmp_path, victim
):
    out, config = tmp_path / "run", tmp_path / "tiny.toml"
    save_config(tiny_config(*EVERY_TWO), config)
    launcher = torchrun("--config", config, "--train", folder, "--val", folder, "--out", out)
    log = out / "metrics.jsonl"
    while not log.is_file() or log.read_bytes().count(b"\n") < 4:
        assert launcher.poll() is None, launcher.stderr.read()
        time.sleep(0.002)
    os.kill(rank_of(launcher, victim), signal.SIGKILL)
    began = time.monotonic()
    output = launcher.communicate(timeout=60)[1]
    assert time.monotonic() - began < 30
    assert launcher.returncode != 0
    assert output.count(f"cckt: rank {victim} of 2 (on ") == 1
    launcher = torchrun("--resume", out)
    assert launcher.communicate(timeout=600)[1] is not None
    assert launcher.returncode == 0
    assert curve(out) == curve(unbroken)
    assert equal(weights(out), weights(unbroken))
