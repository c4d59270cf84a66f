from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.detector.ranks import rank_death as lifeline
from cckt.detector.ranks.rank_death import Lifeline


def together(size, before_joining=lambda address: None):
    """The lifeline of each rank, made in threads as if each were a process."""
    said, told = [], threading.Event()

    def make(rank):
        def share(address):
            if rank == 0:
                said.append(address)
                told.set()
            assert told.wait(10)
            if rank:
                before_joining(said[0])
            return said[0]

        return Lifeline(rank, size, "localhost", share)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(make, range(size)))


def leave(line, error=None):
    line.__exit__(None if error is None else type(error), error, None)


def news(line):
    with pytest.raises(UserError) as told:
        line.explain(RuntimeError("the collective failed"), 10)
    return str(told.value)


def test_ranks_that_leave_in_any_order_are_not_mourned():
    first, second, third = together(3)
    leave(third)
    time.sleep(0.1)
    leave(first)
    time.sleep(0.1)
    second.explain(RuntimeError("my own"), 0.05)
    leave(second)
    assert (first.lost, second.lost, third.lost) == ("", "", "")


def test_a_death_is_told_to_all_with_rank_and_host():
    first, second, third = together(3)
    leave(third, RuntimeError("anything"))
    for line in (first, second):
        told = news(line)
        assert told.startswith(f"rank 2 of 3 (on {socket.gethostname()}) ended before the run did")
        assert "--resume" in told
        leave(line, UserError(told))


def test_the_death_of_rank_0_is_known_too():
    first, second = together(2)
    leave(first, KeyboardInterrupt())
    assert "rank 0 of 2 (on localhost)" in news(second)
    leave(second, UserError(""))


def test_a_rank_that_cannot_leave_is_ended_with_the_sentence(monkeypatch, caplog):
    ended, codes = threading.Event(), []
    monkeypatch.setattr(lifeline, "GRACE_S", 0.1)
    monkeypatch.setattr(lifeline.os, "_exit", lambda code: (codes.append(code), ended.set()))
    first, second = together(2)
    leave(second, RuntimeError("killed"))
    assert ended.wait(10)
    assert codes == [lifeline.EXIT]
    assert caplog.messages == [f"cckt: {first.lost}"]
    leave(first, UserError(""))


def test_workers_that_were_forked_keep_no_line_open():
    first, second = together(2)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        began = time.monotonic()
        leave(second, RuntimeError("killed"))
        assert "rank 1 of 2" in news(first)
        assert time.monotonic() - began < 30
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        leave(first, UserError(""))


def test_strangers_are_not_let_in():
    def stranger(address):
        with socket.create_connection(address[:2]) as line:
            line.sendall(b"open 1 sesame\n")

    for line in together(2, before_joining=stranger):
        assert line.lost == ""
        leave(line)


def test_ranks_that_do_not_come_or_cannot_are_named(monkeypatch):
    monkeypatch.setattr(lifeline, "CONNECT_S", 0.1)
    with pytest.raises(
        UserError, match=r"rank 0 heard nothing from ranks \[1, 2\] for 0 s, expected 3 ranks"
    ):
        Lifeline(0, 3, "localhost", lambda address: address)
    with socket.create_server(("localhost", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=rf"rank 1 could not reach rank 0 at localhost:{port} "):
        Lifeline(1, 2, "localhost", lambda _: ("localhost", port, "word"))
