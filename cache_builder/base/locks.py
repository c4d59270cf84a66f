"""One process at a time, on one machine or a shared file system: a lock that a killed holder cannot leave."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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
        yield True
    finally:
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(descriptor)
