"""Lock files: one process at a time, on one machine or on a shared file system."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from cckt.cache_builder.base.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no fcntl; nothing is locked there
    fcntl = None  # type: ignore[assignment]

TRIES = 10_000
"""Attempts to lock one file. Each failed one but the last means that another process came and went."""


@contextlib.contextmanager
def hold_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path` during the block; yield whether it is held. The file is removed afterwards.

    wait: wait for other holders; otherwise yield False at once if another process holds it. The kernel frees
    the lock of a process that dies. A folder that cannot be written, or a file system without locks, yields
    True: the block reports the first, and runs without a lock in the second.

    Raises UserError if the lock file is a symbolic link, or cannot be created because its folder vanishes.
    """
    descriptor = -1
    try:
        for attempt in range(TRIES if fcntl is not None else 0):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
                descriptor = os.open(path, flags, 0o666)
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    break  # the file that is locked is still the one with this name
            except BlockingIOError:
                os.close(descriptor)
                descriptor = -1
                yield False
                return
            except FileNotFoundError as error:  # its holder removed the file between two of our calls
                if attempt == TRIES - 1:
                    raise UserError(
                        f"The lock file {path} cannot be created ({error.strerror}): expected a folder in "
                        "which files can be created, choose another one."
                    ) from error
            except OSError as error:
                if path.is_symlink():
                    raise UserError(
                        f"The lock file {path} is a symbolic link: expected a file of cckt or none, remove "
                        "the link and run the same command again."
                    ) from error
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
