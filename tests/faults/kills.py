"""Kill a command at its n-th operation that writes, in a forked child of a process that is warmed up.

Operations: opening a file for writing, fsync, rename, replace, link, unlink, rmdir and mkdir, by whichever
module and thread. The child is killed by SIGKILL before the operation takes place.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cckt import cli

OPERATIONS = ("fsync", "rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir")
PATIENCE_S = 120
"""Seconds after which a command counts as hanging."""


def run(words: list[object], kill_at: int = 0) -> tuple[int, int]:
    """Run a command line in a child; return its exit status (-9 if killed) and its number of operations.

    kill_at: number of the operation at which the child dies; 0 for never.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()  # its workers are in its group
            os.close(reading)
            torch.set_num_threads(1)
            signal.alarm(PATIENCE_S)
            quiet = os.open(os.devnull, os.O_RDWR)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            counter = _Counter(kill_at)
            counter.install()
            status = cli.run([str(word) for word in words])
            os.write(writing, str(counter.count).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        count = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert not _group_lives(child), f"expected no worker of {words[:3]} to outlive it"
    return status, int(count or 0)


class _Counter:
    """Counts operations of this process, and kills it at one of them. Forked workers do not count."""

    def __init__(self, kill_at: int) -> None:
        self.count, self._kill_at, self._process = 0, kill_at, os.getpid()
        self._lock = threading.Lock()

    def install(self) -> None:
        """Count from now on."""
        for name in OPERATIONS:
            setattr(os, name, self._counting(getattr(os, name)))
        opening = self._counting(builtins.open, lambda args, kwargs: _writes(args, kwargs))
        builtins.open = io.open = opening  # type: ignore[assignment]
        os.open = self._counting(os.open, lambda args, kwargs: _creates(args, kwargs))  # type: ignore[assignment]

    def _counting(
        self, real: Callable[..., Any], counts: Callable[..., bool] = lambda args, kwargs: True
    ) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if counts(args, kwargs) and os.getpid() == self._process:
                with self._lock:
                    self.count += 1
                    if self.count == self._kill_at:
                        os.kill(self._process, signal.SIGKILL)
            return real(*args, **kwargs)

        return operation


def _writes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    mode = kwargs.get("mode", args[1] if len(args) > 1 else "r")
    return isinstance(mode, str) and any(letter in mode for letter in "wax+") and not _is_device(args)


def _creates(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    flags = kwargs.get("flags", args[1] if len(args) > 1 else 0)
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) and not _is_device(args)


def _is_device(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], int | str) and str(args[0]).startswith(("/dev/", "/proc/"))


def _group_lives(leader: int, seconds: float = 10.0) -> bool:
    """Return whether a process of a group is still alive after a while; kill the group then."""
    waited = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if not _alive_in(leader):
            return False
        waited.wait(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    return True


def _alive_in(group: int) -> bool:
    """Return whether the process group has a member that is no zombie; Linux only, else True at most once."""
    if sys.platform != "linux":
        return False
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                after = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(after[2]) == group and after[0] != "Z":
                    return True
    return False
