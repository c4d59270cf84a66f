"""kill -9 at random steps and while a checkpoint is written: the resumed run equals an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal

import torch

from cckt.cache_builder.base.progress import Silent
from cckt.detector.runs import checkpoints
from cckt.detector.training.train import train
from tests.detector.tiny import make_data, tiny_config
from tests.detector.training.test_train import curve, equal, weights

KILLS = 5
OPTIONS = (
    "train.epochs=6",
    "train.checkpoint_every=2",
    "train.ema_decay=0.9",
    "guidance.drop=0.3",
    "model.dropout=0.1",
    "train.log_every=3",
)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(Silent):
    """Kills this process at the end of the n-th step, before it is logged or saved."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, n=1, **figures):
        self.left -= n
        if self.left == 0:
            die()


def session(folder, run, steps=0, in_checkpoint=False):
    """Train in a separate process; return its exit code: 0, or minus the signal that killed it.

    steps: kill it at this step; with in_checkpoint: while its first checkpoint is half written.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            if in_checkpoint:
                whole = checkpoints.write_json

                def write_json(path, value):
                    return die() if path.name == "files.json" else whole(path, value)

                checkpoints.write_json = write_json
            resume = checkpoints.newest_checkpoint(run)[0] is not None
            killer = Killer(0 if in_checkpoint else steps)
            train(tiny_config(*OPTIONS), folder, None, run, resume=resume, progress=killer)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_five_kills_change_no_loss_and_no_weight(tmp_path):
    folder = make_data(tmp_path / "data", photos=6, sizes=((64, 64), (80, 64)))
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert session(folder, unbroken) == 0
    rng, before = random.Random(5), 0
    for kill in range(KILLS):
        ended = session(folder, killed, rng.randint(1, 5), in_checkpoint=kill == 2)
        assert ended == -signal.SIGKILL
        newest, torn = checkpoints.newest_checkpoint(killed)
        assert torn == [], "found a partial checkpoint"
        step = 0 if newest is None else int(newest.name.removeprefix("step-"))
        assert before <= step < 18
        before = step
    assert before > 0
    assert session(folder, killed) == 0
    assert [line["step"] for line in curve(unbroken)] == [3, 6, 9, 12, 15, 18]
    assert curve(killed) == curve(unbroken)
    assert equal(weights(killed), weights(unbroken))
