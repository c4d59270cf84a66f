"""A time limit for work in the main thread that cannot be watched step by step."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cckt.cache_builder.base.errors import UserError


@contextmanager
def time_limit(minutes: float, next_step: str) -> Iterator[None]:
    """Interrupt the block after some minutes, with a UserError that ends in `next_step`.

    The block is interrupted as by Ctrl-C, between two steps of Python; outside the main thread there is no
    limit. Raises UserError if `minutes` is not above 0.
    """
    if not minutes > 0:
        raise UserError(f"--time-limit {minutes:g}: expected a number of minutes above 0, such as 15.")
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late = threading.Event()

    def interrupt() -> None:
        late.set()
        _thread.interrupt_main()

    # A shell starts background jobs with SIGINT ignored, and then nothing could be interrupted.
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(min(minutes * 60, threading.TIMEOUT_MAX), interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not late.is_set():
            raise
        raise UserError(f"not finished after {minutes:g} minutes, and stopped; {next_step}.") from None
    finally:
        timer.cancel()
        if not callable(before):
            signal.signal(signal.SIGINT, before)
