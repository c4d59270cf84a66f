"""Read files and folders of anybody: no endless device, no silent pipe, no folder left out."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

LOST = "lost+found"
"""Folder at the root of a file system that only root reads; it holds no files of users."""
_GIVEN = re.compile(r"/dev/(stdin|fd/[0-9]+)|/proc/self/fd/[0-9]+")
"""Descriptors that the shell opened for this process, as in --split <(...)."""


class SpecialFileError(OSError):
    """A device, or a pipe that may wait forever, in the place of a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "it is a device or a pipe, expected a regular file", str(path))


def require_regular(path: Path) -> Path:
    """Return `path`. Raises SpecialFileError for a device or a pipe, and OSError if nothing can be found out.

    A missing file, a folder, and a pipe that the shell opened for this process pass.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path
    special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    if special and not (stat.S_ISFIFO(mode) and _GIVEN.fullmatch(os.fspath(path))):
        raise SpecialFileError(path)
    return path


def read_regular(path: Path) -> bytes:
    """Return the contents of a file. Raises OSError as `require_regular` and `Path.read_bytes` do."""
    return require_regular(path).read_bytes()


def read_regular_text(path: Path, encoding: str = "utf-8", errors: str | None = None) -> str:
    """Return the text of a file. Raises OSError as `require_regular`, and what `Path.read_text` raises."""
    return require_regular(path).read_text(encoding=encoding, errors=errors)


def walk_files(
    root: Path, enter: Callable[[Path], bool] = lambda folder: True
) -> Iterator[tuple[Path, list[str]]]:
    """Yield (folder, ascending names of its files) of `root` and all folders below it, in ascending order.

    enter: whether to look into a folder below `root`; links to folders are not followed, and lost+found of a
    file system is left out. Raises OSError for a folder that cannot be listed: its files would be missing
    without a word.
    """

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if name != LOST and enter(Path(folder, name)))
        yield Path(folder), sorted(files)
