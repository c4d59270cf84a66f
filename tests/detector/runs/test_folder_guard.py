"""One training at a time in a run folder; folders that hold other files are refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, save_config
from cckt.detector.ranks.world import World
from cckt.detector.runs.folder_guard import LOCK, require_own_or_empty, training_lock
from cckt.detector.runs.run_folder import Facts

ONE_RANK = World(0, 1, torch.device("cpu"))
FACTS = Facts(16, 2, ["a", "b"], [1, 2], "sha256:0", {}, {})
SPAWN = multiprocessing.get_context("spawn")


def write_run(folder: Path) -> Path:
    """Write the files of a started run."""
    folder.mkdir(parents=True, exist_ok=True)
    save_config(Config(), folder / "config.toml")
    write_json(folder / "versions.json", {"cckt": "1", "torch": "2"})
    write_json(folder / "data.json", {"train": "/data", "val": None, "max_steps": None})
    FACTS.save(folder)
    return folder


def test_a_missing_or_empty_folder_is_accepted(tmp_path: Path) -> None:
    require_own_or_empty(tmp_path / "new" / "run")
    require_own_or_empty(tmp_path)


def test_a_run_is_accepted_with_all_its_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text("")
    (run / "my notes.txt").write_text("mine")
    require_own_or_empty(run)


def test_a_run_of_another_version_is_accepted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("[train]", "[train]\nan_old_option = 3"))
    write_json(run / "facts.json", vars(FACTS) | {"a_new_fact": 1})
    require_own_or_empty(run)


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_files_of_a_killed_first_start_are_accepted(tmp_path: Path, written: int) -> None:
    run = write_run(tmp_path / "run")
    for name in ("config.toml", "versions.json", "data.json", "facts.json")[written:]:
        (run / name).unlink()
    (run / ".facts.json.123.partial").write_text("{")
    (run / LOCK).write_text("")
    write_json(run / "ablate.json", {"seconds": 1.5})
    require_own_or_empty(run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.toml", "[train]\nepochs = 3\n"),
        ("config.toml", "not = [toml"),
        ("data.json", '{"a": 1}'),
        ("data.json", "[1, 2]"),
        ("versions.json", "{}"),
        ("metrics.jsonl", '{"loss": 1}\n'),
        ("facts.json", '{"height": 8848}'),
        ("ablate.json", "{}"),
        ("notes.txt", "mine"),
    ],
)
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"--out .*: found {name} in it, expected an empty folder or a run"):
        require_own_or_empty(tmp_path)
    with pytest.raises(UserError, match=f"found {name} in it"), training_lock(tmp_path, ONE_RANK):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_facts_without_a_config_and_a_folder_of_runs_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one")
    with pytest.raises(UserError, match="found one in it"):
        require_own_or_empty(tmp_path / "runs")
    (run / "config.toml").unlink()
    with pytest.raises(UserError, match=r"found facts\.json in it"):
        require_own_or_empty(run)


def test_the_lock_creates_the_folder_and_removes_it_if_it_stays_empty(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training_lock(run, ONE_RANK):
        assert json.loads((run / LOCK).read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert not run.exists()
    with pytest.raises(RuntimeError), training_lock(run, ONE_RANK):
        raise RuntimeError
    assert not run.exists()
    with training_lock(run, ONE_RANK):
        write_run(run)
    assert run.is_dir()
    assert not (run / LOCK).exists()
    with training_lock(run, ONE_RANK):
        assert (run / LOCK).exists()


def test_a_path_that_cannot_be_a_folder_is_left_to_the_message_of_mkdir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for run in (tmp_path / "file", tmp_path / "file" / "below"):
        with training_lock(run, ONE_RANK):
            pass


def test_a_second_training_in_the_same_process_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    message = rf"run: process {os.getpid()} on {socket.gethostname()} is training in this folder"
    with training_lock(run, ONE_RANK):
        with pytest.raises(UserError, match=message), training_lock(run, ONE_RANK):
            pass
        assert (run / LOCK).exists()


def hold(run, taken, with_worker):
    """Hold the lock, with a forked worker that outlives a kill, until the process is killed."""
    with training_lock(run, ONE_RANK):
        worker = os.fork() if with_worker else -1
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        taken.put(worker)
        time.sleep(60)


@pytest.mark.parametrize("with_worker", [False, True])
def test_a_killed_training_leaves_no_lock(tmp_path: Path, with_worker: bool) -> None:
    run = write_run(tmp_path / "run")
    taken = SPAWN.Queue()
    process = SPAWN.Process(target=hold, args=(run, taken, with_worker))
    process.start()
    worker = taken.get(timeout=60)
    try:
        message = (
            rf"process {process.pid} on {socket.gethostname()} is training in this folder.*another --out"
        )
        with pytest.raises(UserError, match=message), training_lock(run, ONE_RANK):
            pass
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with training_lock(run, ONE_RANK):
            pass
    finally:
        if worker > 0:
            os.kill(worker, signal.SIGKILL)


def test_a_holder_without_a_name_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    monkeypatch.setattr("cckt.detector.runs.folder_guard.LOCK_PAUSE_S", 0.0)
    with training_lock(run, ONE_RANK):
        (run / LOCK).write_text("")
        with pytest.raises(UserError, match="another process is training"), training_lock(run, ONE_RANK):
            pass


@dataclass(frozen=True)
class SecondRank(World):
    """A rank that receives `shared` from rank 0."""

    shared: str = ""

    def share(self, value):
        return self.shared


def test_other_ranks_take_no_lock_and_raise_what_rank_0_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    world = SecondRank(1, 2, torch.device("cpu"))
    with training_lock(tmp_path, world):
        assert not (tmp_path / LOCK).exists()
    refused = replace(world, shared="the folder is in use.")
    with pytest.raises(UserError, match=r"the folder is in use\."), training_lock(tmp_path, refused):
        pass
