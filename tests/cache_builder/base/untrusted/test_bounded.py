"""Bounds of time and memory."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
import time

import pytest

from cckt.cache_builder.base.untrusted.bounded import TookTooLong, bounded


def test_a_small_block_runs_and_the_limit_is_taken_back() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded(60, 1 << 28):
        assert len(bytes(1 << 20)) == 1 << 20
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_arithmetic_of_large_numbers_is_interrupted() -> None:
    with pytest.raises(TookTooLong), bounded(0.2):
        9 ** (9**9)


@pytest.mark.parametrize("seconds", [1e-7, 1e-4, 1e-3])
def test_a_limit_that_ends_with_the_block_leaves_nothing_behind(seconds: float) -> None:
    for _ in range(200):
        with contextlib.suppress(TookTooLong), bounded(seconds):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_a_limit_inside_of_a_limit_leaves_the_outer_one() -> None:
    began = time.monotonic()

    def both() -> None:
        with pytest.raises(TookTooLong), bounded(0.1):
            time.sleep(60)
        assert time.monotonic() - began < 2
        time.sleep(60)

    with pytest.raises(TookTooLong), bounded(2):
        both()
    assert 2 <= time.monotonic() - began < 30
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_memory_beyond_the_limit_fails_and_what_is_within_does_not() -> None:
    with pytest.raises(MemoryError), bounded(60, 1 << 28):
        bytes(1 << 29)
    assert len(bytes(1 << 29)) == 1 << 29
