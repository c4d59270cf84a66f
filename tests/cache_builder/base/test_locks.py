"""Two builds, two overwrites: one at a time, and a killed holder holds nobody up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.locks import hold_lock
from cckt.cache_builder.index import write as index_write
from cckt.cache_builder.index.tables import CARD, FOLDER
from cckt.cache_builder.store import open_column, open_writer
from tests.cache_builder.column_samples import crops_spec, make, row_of

SPAWN = multiprocessing.get_context("spawn")


def hold(path, taken, leave):
    with hold_lock(path, wait=True):
        taken.set()
        leave.wait()


def other_holder(path):
    taken, leave = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(path, taken, leave))
    process.start()
    assert taken.wait(60)
    return process, leave


def test_a_lock_is_held_and_its_file_removed(tmp_path):
    lock = tmp_path / "new" / "lock"
    for wait in (False, True):
        with hold_lock(lock, wait=wait) as held:
            assert held
            assert lock.exists()
        assert not lock.exists()


def test_a_folder_that_cannot_be_written_is_reported_by_the_block(tmp_path):
    (tmp_path / "file").touch()
    with hold_lock(tmp_path / "file" / "lock", wait=False) as held:
        assert held


@pytest.mark.parametrize("target", ["nowhere/x", "file", "."])
def test_a_symbolic_link_as_a_lock_file_is_refused(tmp_path, target):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "lock").symlink_to(target)
    with (
        pytest.raises(UserError, match=r"lock is a symbolic link: .* remove the link"),
        hold_lock(tmp_path / "lock", wait=True),
    ):
        pass
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / ".tmp-lock-crops").symlink_to("nowhere/x")
    with pytest.raises(UserError, match="is a symbolic link"):
        open_writer(tmp_path, crops_spec(), overwrite=True)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder in which nothing can be created")
def test_a_folder_that_cannot_be_created_is_one_sentence(tmp_path):
    with (
        pytest.raises(UserError, match="lock file /proc/x/lock cannot be created") as caught,
        hold_lock(Path("/proc/x/lock"), wait=False),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_one_process_at_a_time_and_a_killed_holder_frees_the_lock(tmp_path):
    lock = tmp_path / "lock"
    process, _ = other_holder(lock)
    with hold_lock(lock, wait=False) as held:
        assert not held
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with hold_lock(lock, wait=False) as held:
        assert held


def hold_with_child(path, children, leave):
    with hold_lock(path, wait=True):
        child = os.fork()
        if child == 0:
            leave.wait()
            os._exit(0)
        children.put(child)
        leave.wait()


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_holder(tmp_path):
    lock, children, leave = tmp_path / "lock", SPAWN.Queue(), SPAWN.Event()
    process = SPAWN.Process(target=hold_with_child, args=(lock, children, leave))
    process.start()
    child = children.get(timeout=60)
    try:
        with hold_lock(lock, wait=False) as held:
            assert not held
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for _ in range(600):  # a child that was just forked may not have run yet
            with hold_lock(lock, wait=False) as held:
                if held:
                    break
            time.sleep(0.05)
        assert held
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_second_build_of_an_index_is_refused(tmp_path):
    process, leave = other_holder(tmp_path / FOLDER / index_write.LOCK)
    with pytest.raises(UserError, match="found another build that is writing there, expected none"):
        index_write.write_index(tmp_path, None, {"tables": "tables-x"})
    assert not (tmp_path / FOLDER / CARD).exists()
    leave.set()
    process.join()


def overwrite(folder, width, go):
    go.wait()
    open_writer(folder, crops_spec(width=width), overwrite=True)
    make(Path(folder), crops_spec(width=width))


def test_several_processes_overwrite_at_the_same_time(tmp_path):
    """Each would clear away what another has begun; the first clears the old column, the others join."""
    make(tmp_path, crops_spec(width=8))
    go = SPAWN.Event()
    makers = [SPAWN.Process(target=overwrite, args=(str(tmp_path), 24, go)) for _ in range(3)]
    for maker in makers:
        maker.start()
    go.set()
    for maker in makers:
        maker.join()
        assert maker.exitcode == 0
    column = open_column(tmp_path, "crops")
    make(tmp_path / "single", crops_spec(width=24))
    np.testing.assert_array_equal(column.all(), open_column(tmp_path / "single", "crops").all())
    assert not list(tmp_path.glob(".tmp-*"))


def written(folder):
    """Two writers of a column that lacks nothing but its manifest."""
    spec = crops_spec()
    writers = [open_writer(folder, spec) for _ in range(2)]
    for chunk in range(spec.n_chunks):
        writers[0].write(chunk, np.stack([row_of(spec, row) for row in range(*spec.bounds(chunk))]))
    return writers


def test_two_writers_finish_at_the_same_time(tmp_path, monkeypatch):
    """The sweep of the one does not take the manifest that the other is about to rename."""
    first, second = written(tmp_path)
    replace, others = os.replace, []

    def slow_replace(source, target):
        if not others:
            others.append(threading.Thread(target=second.finish))
            others[0].start()
            others[0].join(0.5)  # a sweep that does not wait is over by then
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow_replace)
    first.finish()
    others[0].join()
    assert second.finished
    assert {path.name for path in tmp_path.rglob("*")} & {"ledger", ".tmp-lock-crops"} == set()


def test_a_late_sweep_keeps_a_column_that_was_begun_again(tmp_path):
    first, _ = written(tmp_path)
    first.finish()
    again = open_writer(tmp_path, crops_spec(), overwrite=True)
    again.write(0, np.stack([row_of(crops_spec(), row) for row in range(16)]))
    first.finish()
    assert again.missing() == list(range(1, crops_spec().n_chunks))


def test_a_swept_chunk_is_written_again_if_a_third_writer_has_begun_again(tmp_path, monkeypatch):
    spec = crops_spec()
    first, second = written(tmp_path)
    rows = np.stack([row_of(spec, row) for row in range(*spec.bounds(0))])
    replace, done = os.replace, []

    def slow_replace(source, target):
        if not done:
            done.append(True)
            first.finish()  # sweeps the temporary file that we are about to rename
            open_writer(tmp_path, spec, overwrite=True)
        replace(source, target)

    monkeypatch.setattr(second, "_made_already", lambda chunk: False)
    monkeypatch.setattr(os, "replace", slow_replace)
    second.write(0, rows)
    assert open_writer(tmp_path, spec).missing() == list(range(1, spec.n_chunks))


def test_ranks_may_not_overwrite_in_an_object_store(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="found 2 ranks, expected one process, for an object store"):
        open_writer("memory://locking", crops_spec(), overwrite=True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert open_writer("memory://locking", crops_spec(), overwrite=True).missing()
