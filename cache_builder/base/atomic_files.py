"""Files that appear complete or not at all, and which values a JSON file can hold."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import socket
import stat
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePath
from typing import IO, Any

_DESCRIPTORS = re.compile(r"/proc/[^/]+(/task/[^/]+)?/fd|/dev/fd")
_LONGEST_CHAIN = 40
"""Symbolic links in a row that Linux follows."""
LONGEST_PART = 200
"""Bytes of a name to which something is added; file systems permit 255."""
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


def is_stream(path: Path) -> bool:
    """Return whether a path is written to as it is: a device, a pipe, a terminal or an open descriptor.

    /dev/stdout counts also if it leads to an ordinary file, which other writers of the descriptor share.
    OSError if the path cannot be judged, for example because links form a loop.
    """
    step = os.path.abspath(path)
    for _ in range(_LONGEST_CHAIN):
        if _DESCRIPTORS.fullmatch(os.path.realpath(os.path.dirname(step))):
            return True
        if not os.path.islink(step):
            break
        step = os.path.join(os.path.dirname(step), os.readlink(step))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that appears complete: readers see the old content or the new one.

    A device, a pipe or a terminal is written to as it is, and stays what it is; the target of a symbolic link
    is replaced, not the link. OSError if the file cannot be written.
    """
    if is_stream(path):
        with path.open("ab") as stream:  # not "wb", which would cut a file that the shell has redirected to
            stream.write(content)
        return
    if path.is_symlink():
        path = path.resolve()
    place(content, path, temporary_of(path))


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are complete on the disk before the first one appears.

    If one cannot be written, for example because the disk is full, none is. OSError names the file.
    """
    streams = [path for path in files if is_stream(path)]
    targets = {
        path.resolve() if path.is_symlink() else path: content
        for path, content in files.items()
        if path not in streams
    }
    ready: dict[Path, Path] = {}
    try:
        for target, content in targets.items():
            whole = temporary_of(target, "whole.")
            ready[target] = whole
            place(content, whole, temporary_of(target))
        for target, whole in ready.items():
            os.replace(whole, target)
        for path in streams:
            write_bytes(path, files[path])
    finally:
        for whole in ready.values():
            with contextlib.suppress(OSError):
                os.unlink(whole)


@contextlib.contextmanager
def whole_files(*paths: Path) -> Iterator[list[IO[bytes]]]:
    """Open files that the block writes piece by piece, and that appear complete when it ends.

    If the block fails, none of them appears, and what was there stays. The target of a symbolic link is
    replaced, not the link. Not for devices and pipes. OSError if a file cannot be written.
    """
    targets = [path.resolve() if path.is_symlink() else path for path in paths]
    partial = [temporary_of(target) for target in targets]
    files: list[IO[bytes]] = []
    try:
        for one in partial:
            files.append(one.open("wb"))
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for one, target in zip(partial, targets, strict=True):
            os.replace(one, target)
    finally:
        for file in files:
            with contextlib.suppress(OSError):  # of a full disk, which the block has reported
                file.close()
        for one in partial:
            with contextlib.suppress(OSError):
                os.unlink(one)


def temporary_of(target: Path, step: str = "") -> Path:
    """Return the temporary name of a file: .NAME.HOST.PID.partial, HOST being a digest of the machine's name.

    The first call for a folder removes the temporary files that killed processes of this machine left there.
    """
    swept = (os.getpid(), target.parent)
    if swept not in _swept():
        _swept().add(swept)
        _sweep(target.parent)
    return target.with_name(f".{short_name(target.name)}.{step}{_host()}.{os.getpid()}.partial")


def short_name(name: str, most: int = LONGEST_PART) -> str:
    """Return a file name of at most `most` bytes: a longer one is cut, and has a digest at its end.

    So a file whose name has the length that file systems permit can still get a suffix or a number.
    """
    content = os.fsencode(name)
    if len(content) <= most:
        return name
    return f"{content[: most - 9].decode(errors='ignore')}-{zlib.crc32(content):08x}"


def _sweep(folder: Path) -> None:
    left = re.compile(rf"\..+\.{_host()}\.([0-9]{{1,9}})\.partial")
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            found = left.fullmatch(name)
            if found and not is_running(int(found[1])):
                with contextlib.suppress(OSError):
                    if os.path.isdir(folder / name) and not os.path.islink(folder / name):
                        shutil.rmtree(folder / name)
                    else:
                        os.unlink(folder / name)


@cache
def _swept() -> set[tuple[int, Path]]:
    """Processes and folders that `temporary_of` has swept; a fork sweeps again."""
    return set()


@cache
def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def is_running(pid: int) -> bool:
    """Return whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def place(content: bytes | memoryview, target: Path, temporary: Path, *, new: bool = False) -> bool:
    """Write `content` to `temporary`, sync it and rename it to `target`; `temporary` never remains.

    new: keep a `target` that exists, and return False.
    """
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if new:
            return _link(temporary, target)
        os.replace(temporary, target)
        return True
    except OSError as error:  # write() and fsync() name no file, and the temporary name helps nobody
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _link(temporary: Path, target: Path) -> bool:
    """A rename that never replaces: a hard link fails if its name exists."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if target.exists():  # without hard links another process may win between the two calls
            return False
        os.replace(temporary, target)
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `plain(value)` as a JSON file that appears complete."""
    write_bytes(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: None for NaN and infinity, lists for tuples, strings for paths."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):  # numpy's float64 too
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, PurePath) else value
