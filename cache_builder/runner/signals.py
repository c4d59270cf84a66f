"""Ctrl-C and SIGTERM as a sentence: what is being written is written whole, then the run stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

from cckt.cache_builder.base.errors import UserError


class Interrupted(UserError):
    """The user, the shell or the scheduler stopped a run; `number` is the signal's."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number

    @classmethod
    def by(cls, name: str, when: str, step: str) -> Self:
        """By the signal called `name` ("SIGTERM", or "another rank's signal"), which stopped a training."""
        return cls(f"stopped by {name} at {when}; {step}.", getattr(signal, name, signal.SIGTERM).value)


class Stop(BaseException):
    """Raised by the handler in the main thread; no `except Exception` on the way can lose it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within, the first SIGINT or SIGTERM raises `Stop`; a second one acts as it would have without us.

    Only the main thread can take signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        raise Stop(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
