"""Kill a command at its n-th operation that writes, in a forked child of a process that is warmed up.

Operations: opening a file for writing, fsync, rename, replace, link, unlink, rmdir and mkdir, by whichever
module and thread. The child is killed by SIGKILL before the operation takes place.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cckt import cli

OPERATIONS = ("fsync", "rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir")
IMPORTS = ("zarr", "open_clip", "timm", "safetensors.torch", "hotcoco", "cckt.api", "cckt.shapeworld.dataset")
IMPORTS += ("cckt.cache_builder.columns.all_at_once", "cckt.detector.training.train", "cckt.detector.report")
PATIENCE_S = 120
"""Seconds after which a command counts as hanging."""


class Server:
    """A process that has imported what commands import and computed nothing; commands are forked from it.

    A test process cannot be forked itself: thread pools that it has used, such as that of hotcoco, would have
    no threads in the child.
    """

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        code = f"from {__name__} import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def run(self, words: Sequence[object], kill_at: int = 0) -> Ended:
        """Run a command line in a child, which dies at its `kill_at`-th operation; 0 for never."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = json.dumps({"words": [str(word) for word in words], "kill_at": kill_at})
        self._process.stdin.write(request.encode() + b"\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """Exit code, or minus the signal that killed it."""
    count: int
    """Operations that write; 0 if it was killed."""
    lives: bool
    """Whether a worker outlived it."""
    err: str
    """The end of its stderr."""


def serve() -> None:
    """Answer requests on stdin, one a line, until it ends."""
    for module in IMPORTS:
        importlib.import_module(module)
    torch.set_num_threads(1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(vars(_forked(**json.loads(line)))) + "\n")
        sys.stdout.flush()


def _forked(words: list[str], kill_at: int) -> Ended:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                os.setsid()  # its workers are in its group
                os.close(reading)
                signal.alarm(PATIENCE_S)
                quiet = os.open(os.devnull, os.O_RDWR)
                os.dup2(quiet, 0)
                os.dup2(quiet, 1)
                os.dup2(err.fileno(), 2)
                counter = _Counter(kill_at)
                counter.install()
                status = cli.run(words)
                os.write(writing, str(counter.count).encode())
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            count = int(pipe.read() or 0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        lives = _group_lives(child)
        err.seek(0)
        return Ended(status, count, lives, err.read()[-2000:].decode(errors="replace"))


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
        if not alive_in(leader):
            return False
        waited.wait(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    return True


def alive_in(group: int) -> bool:
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
