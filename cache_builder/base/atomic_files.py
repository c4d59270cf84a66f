"""Files that appear complete or not at all, and which values a JSON file can hold."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that appears complete: readers see the old content or the new one.

    A device, a pipe or a terminal is written to as it is, and stays what it is; the target of a symbolic link
    is replaced, not the link. OSError if the file cannot be written.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as stream:
                stream.write(content)
            return
    if path.is_symlink():
        path = path.resolve()
    place(content, path, path.with_name(f".{path.name}.{os.getpid()}.partial"))


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
