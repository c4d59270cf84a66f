"""Stop on Ctrl-C and SIGTERM with a message, after the current write is complete."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

from cckt.cache_builder.base.errors import UserError


class Interrupted(UserError):
    """The user, the shell or the scheduler stopped a run. `number` is that of the signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number

    @classmethod
    def by(cls, name: str, when: str, step: str) -> Self:
        """Return the error for a training that a signal stopped.

        name: "SIGTERM", or "another rank's signal". when: the position. step: the next step for the user.
        """
        return cls(f"stopped by {name} at {when}; {step}.", getattr(signal, name, signal.SIGTERM).value)


class Stop(BaseException):
    """Raised in the main thread by the signal handler. A BaseException, so no `except Exception` hides it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stop` on the first SIGINT or SIGTERM in the block; a second one has its usual effect.

    Does nothing outside the main thread, since only the main thread receives signals.
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
