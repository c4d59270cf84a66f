"""Twenty-five `kill -9` at random instants over the real verbs; the columns are the same to the byte.

The children are forked from a process that has imported everything but computed nothing, so that a kill falls
into the work rather than into the imports.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cckt.cache_builder.columns.clip_priors
import cckt.cache_builder.columns.crops
import cckt.cache_builder.columns.images
import cckt.cache_builder.columns.text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import list_columns, open_column, verify_column
from cckt.shapeworld.dataset import make_dataset

KILLS = 25
TEACHER = "shapeworld"
VERBS: dict[str, Callable[[Path], object]] = {
    "text": lambda data: cckt.cache_builder.columns.text.cache_text(data, TEACHER, chunk_rows=8),
    "crops": lambda data: cckt.cache_builder.columns.crops.cache_crops(
        data, TEACHER, batch=4, chunk_rows=8, workers=1
    ),
    "images": lambda data: cckt.cache_builder.columns.images.cache_images(
        data, TEACHER, batch=4, chunk_rows=8, workers=1
    ),
    "priors/clip": lambda data: cckt.cache_builder.columns.clip_priors.cache_clip_priors(data, chunk_rows=4),
}


def bytes_under(data: Path, name: str) -> dict[str, bytes]:
    folder = data / name
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def child(data: Path, name: str) -> int:
    """Fork a maker of one column; its exit status is 0 if it finished."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            VERBS[name](data)
            status = 0
        finally:
            os._exit(status)
    return pid


def drive(whole: Path, data: Path, seed: int) -> None:
    """Make every column of `whole` undisturbed, and of `data` with KILLS kills; they must be the same."""
    rng = random.Random(seed)
    took = {}
    for name in VERBS:
        begin = time.monotonic()
        _, status = os.waitpid(child(whole, name), 0)
        assert status == 0, name
        took[name] = time.monotonic() - begin
    kills = 0
    for name in VERBS:
        share = KILLS - kills if name == list(VERBS)[-1] else KILLS // len(VERBS)
        for _ in range(share):
            pid = child(data, name)
            time.sleep(rng.uniform(0, 1.1 * took[name]))
            os.kill(pid, signal.SIGKILL)  # a child that has finished is still ours to wait for
            os.waitpid(pid, 0)
            kills += 1
        _, status = os.waitpid(child(data, name), 0)
        assert status == 0, f"{name} did not go on after {share} kills"
        assert bytes_under(data, name) == bytes_under(whole, name), name
    assert kills == KILLS


def test_columns_killed_at_random_have_the_same_bytes(tmp_path: Path) -> None:
    whole, data = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, data):
        make_dataset(folder, 24, seed=6, workers=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    script = f"import sys, pathlib; from {__name__} import drive; drive(*map(pathlib.Path, sys.argv[1:]), 1)"
    command = [sys.executable, "-c", script, str(whole), str(data)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    index = open_index(data)
    assert list_columns(data) == sorted(VERBS)
    for name in VERBS:
        assert verify_column(data, name, index_digest=index.digest).ok
        assert open_column(data, name, index_digest=index.digest).manifest.finished
