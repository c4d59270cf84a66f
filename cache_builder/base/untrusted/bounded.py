"""Bounds of time and memory for work that cannot be watched step by step, such as a stranger's template."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LONGEST_S = 1e8
"""A limit that any timer can hold."""


class TookTooLong(BaseException):
    """A block that did not end within its seconds. No Exception, which the block might catch and go on."""


@contextmanager
def bounded(seconds: float, most_bytes: int | None = None) -> Iterator[None]:
    """Raise TookTooLong in the block after some seconds, MemoryError where it takes more than `most_bytes`.

    The block is interrupted between two steps of Python or within the arithmetic of large numbers. There is
    no limit of time outside the main thread.
    """
    with memory_limit(most_bytes), _time_limit(seconds):
        yield


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not hasattr(signal, "setitimer"):  # Windows
        with _interrupted_by_a_thread(seconds):
            yield
        return

    armed = True

    def stop(number: int, frame: object) -> None:
        if armed:
            raise TookTooLong

    # A signal, because a thread waits for Python's lock while arithmetic holds it.
    began, handler, other = time.monotonic(), signal.signal(signal.SIGALRM, stop), 0.0
    try:
        other = signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST_S), 1)[0]
        yield
    finally:
        armed = False  # an alarm in these lines must not leave the handler or the timer behind
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if other:  # somebody else's alarm goes on, as if nothing had been
            signal.setitimer(signal.ITIMER_REAL, max(other - (time.monotonic() - began), 1e-3))


@contextmanager
def _interrupted_by_a_thread(seconds: float) -> Iterator[None]:
    late = threading.Event()

    def interrupt() -> None:
        late.set()
        _thread.interrupt_main()

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not late.is_set():
            raise
        raise TookTooLong from None
    finally:
        timer.cancel()


@contextmanager
def memory_limit(most_bytes: int | None) -> Iterator[None]:
    """Make allocations fail in the block where the process takes more than `most_bytes` in addition.

    Only Linux can limit that; None is no limit.
    """
    if most_bytes is None or sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with suppress(OSError, ValueError):  # a sandbox that forbids it has its own limits
        data_and_stacks = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (_lower(data_and_stacks + most_bytes, before), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _lower(wanted: int, limits: tuple[int, int]) -> int:
    """Return `wanted`, or a limit that is below it; -1 is none."""
    return min(wanted, *(one for one in limits if one >= 0), wanted)
