"""kill -9 anywhere: the next run gives the bytes of a run that was never killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cckt.cache_builder.store.format.layout import array_documents
from tests.cache_builder.column_samples import crops_spec, four_specs, make, tree
from tests.places import ROOT

STEPS = ("fsync", "replace", "link", "write", "unlink", "rmdir", "open")


def build(data: Path) -> None:
    """Two chunks and a bit, in this process."""
    make(data, crops_spec(20, 8))


def build_and_die(data: Path, at: int) -> bool:
    """Build in a forked child that dies before its `at`-th file system call; False if there is none."""
    child = os.fork()
    if child == 0:
        calls = 0
        for name in STEPS:
            real = getattr(os, name)

            def counted(*arguments, real=real, **options):
                nonlocal calls
                calls += 1
                if calls == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            setattr(os, name, counted)
        try:
            build(data)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_before_every_single_call_to_the_file_system(tmp_path):
    array_documents(crops_spec(20, 8))  # zarr is imported once, here, and not in every child
    build(tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    at = 0
    while True:
        at += 1
        data = tmp_path / f"killed-{at}"
        if not build_and_die(data, at):
            break
        build(data)
        assert tree(data) == whole, f"killed before call {at}"
    assert at > 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_in_the_same_place(tmp_path):
    """Each run gets a little further than the one before; none may undo earlier work."""
    build(tmp_path / "whole")
    at = 9
    while build_and_die(tmp_path / "data", at):
        at += 2
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")


def start(data: Path, *options: str) -> subprocess.Popen[str]:
    """Start a process that makes all four kinds of column; wait until it begins."""
    command = [
        sys.executable,
        "-m",
        "tests.cache_builder.column_samples",
        str(data),
        "--delay",
        "0.01",
        *options,
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed_at_random(folder: Path, kills: int, seed: int, *options: str) -> None:
    """Kill processes at random times, `kills` times in all; every finished data set is the same."""
    for spec in four_specs():
        make(folder / "whole", spec)
    whole = tree(folder / "whole")
    chance = random.Random(seed)
    began = time.perf_counter()
    start(folder / "timed").communicate()
    full = time.perf_counter() - began
    assert tree(folder / "timed") == whole
    killed = round_ = 0
    while killed < kills:
        round_ += 1
        data = folder / f"round-{round_}"
        while True:
            process = start(data, *options)
            time.sleep(chance.uniform(0, full / 3))
            process.kill()
            said = process.communicate()[0]
            killed += "done" not in said
            if "done" in said or killed >= kills:
                break
        for spec in four_specs():
            make(data, spec)
        assert tree(data) == whole


def test_killed_at_random_instants(tmp_path):
    killed_at_random(tmp_path, 6, 0, "--workers", "1")


@pytest.mark.slow
def test_killed_at_many_random_instants(tmp_path):
    killed_at_random(tmp_path, 50, 1, "--workers", "2")


def test_sigterm_to_a_real_process(tmp_path):
    process = start(tmp_path / "data", "--delay", "0.2")
    while not (tmp_path / "data/crops/values/c.0.0").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 1  # a traceback with our message; the command line shows only the message
    assert "Interrupted: stopped by SIGTERM after making" in said
    for spec in four_specs():
        make(tmp_path / "data", spec)
        make(tmp_path / "whole", spec)
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")
