"""One process at a time, on one machine or a shared file system: a lock that a killed holder cannot leave."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none: there nothing is locked
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def alone(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path`, which goes with the block; whether it is held.

    wait: until others are done; else False at once where another process has it. Where the place cannot be
    written or the file system has no locks the answer is True: what follows says so, or takes its chance. The
    kernel frees the lock of a process that dies.
    """
    descriptor = -1
    try:
        while fcntl is not None:  # until the file that is locked is the one that has the name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    break
            except BlockingIOError:
                os.close(descriptor)
                descriptor = -1
                yield False
                return
            except FileNotFoundError:  # its holder took the file away between two of our calls: another try
                pass
            except OSError:
                break
            if descriptor >= 0:
                os.close(descriptor)
                descriptor = -1
        if descriptor >= 0:
            _held_descriptors().add(descriptor)
        yield True
    finally:
        if descriptor in _held_descriptors():
            _held_descriptors().discard(descriptor)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(descriptor)


@cache
def _held_descriptors() -> set[int]:
    """Return the descriptors of the locks that this process holds.

    Forked children close them: a lock ends when the last copy of its descriptor is closed, and a child, such
    as a data worker, may outlive a killed holder.
    """
    held: set[int] = set()

    def close() -> None:
        for descriptor in held:
            os.close(descriptor)
        held.clear()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)
    return held
