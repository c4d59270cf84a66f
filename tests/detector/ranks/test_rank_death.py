from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.detector.ranks import rank_death
from cckt.detector.ranks.rank_death import RankMonitor


def connect(size, before_joining=lambda address: None):
    """Return the monitor of each rank, made in threads as if each were a process."""
    shared, ready = [], threading.Event()

    def make(rank):
        def share(address):
            if rank == 0:
                shared.append(address)
                ready.set()
            assert ready.wait(10)
            if rank:
                before_joining(shared[0])
            return shared[0]

        return RankMonitor(rank, size, "localhost", share)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(make, range(size)))


def leave(monitor, error=None):
    monitor.__exit__(None if error is None else type(error), error, None)


def loss_message(monitor):
    with pytest.raises(UserError) as raised:
        monitor.raise_if_lost(RuntimeError("the collective failed"), 10)
    return str(raised.value)


def test_ranks_that_finish_in_any_order_are_not_reported():
    first, second, third = connect(3)
    leave(third)
    time.sleep(0.1)
    leave(first)
    time.sleep(0.1)
    second.raise_if_lost(RuntimeError("unrelated"), 0.05)
    leave(second)
    assert (first.lost, second.lost, third.lost) == ("", "", "")


def test_a_death_is_reported_to_all_with_rank_and_host():
    first, second, third = connect(3)
    leave(third, RuntimeError("anything"))
    for monitor in (first, second):
        message = loss_message(monitor)
        assert message.startswith(f"rank 2 of 3 (on {socket.gethostname()}) ended before the run did")
        assert "--resume" in message
        leave(monitor, UserError(message))


def test_the_death_of_rank_0_is_reported():
    first, second = connect(2)
    leave(first, KeyboardInterrupt())
    assert "rank 0 of 2 (on localhost)" in loss_message(second)
    leave(second, UserError(""))


def test_a_rank_that_hangs_is_ended_with_the_message(monkeypatch, caplog):
    ended, codes = threading.Event(), []
    monkeypatch.setattr(rank_death, "GRACE_S", 0.1)
    monkeypatch.setattr(rank_death.os, "_exit", lambda code: (codes.append(code), ended.set()))
    first, second = connect(2)
    leave(second, RuntimeError("killed"))
    assert ended.wait(10)
    assert codes == [rank_death.EXIT_CODE]
    assert caplog.messages == [f"cckt: {first.lost}"]
    leave(first, UserError(""))


def test_forked_workers_keep_no_connection_open():
    first, second = connect(2)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        began = time.monotonic()
        leave(second, RuntimeError("killed"))
        assert "rank 1 of 2" in loss_message(first)
        assert time.monotonic() - began < 30
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        leave(first, UserError(""))


def test_connections_without_the_token_are_closed():
    def stranger(address):
        with socket.create_connection(address[:2]) as connection:
            connection.sendall(b"open 1 sesame\n")

    for monitor in connect(2, before_joining=stranger):
        assert monitor.lost == ""
        leave(monitor)


def test_ranks_that_cannot_connect_are_named(monkeypatch):
    monkeypatch.setattr(rank_death, "CONNECT_S", 0.1)
    with pytest.raises(
        UserError, match=r"rank 0 received no connection from ranks \[1, 2\] within 0 s, expected 3 ranks"
    ):
        RankMonitor(0, 3, "localhost", lambda address: address)
    with socket.create_server(("localhost", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=rf"rank 1 could not connect to rank 0 at localhost:{port} "):
        RankMonitor(1, 2, "localhost", lambda _: ("localhost", port, "token"))
