"""Faults of disks and paths as one sentence, and a check for room before long work starts."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import SpecialFileError

ROOM = 1 << 20
"""Bytes that must be free before long work starts, if the size of its results is unknown."""

TRIES = 100
"""Attempts to look at a disk while other processes make and remove folders there."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_FILES = (errno.EMFILE, errno.ENFILE)
"""Errors of this process or machine, which hold for every file."""
UNANSWERED = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, *NO_FILES)
"""Errors after which a file may exist all the same."""
_SPACE = "free space there or name another place"
_OTHER = "name another place"
_REASONS = {
    errno.ENOSPC: ("the disk is full", _SPACE),
    errno.EDQUOT: ("the quota of this user is used up", _SPACE),
    errno.EFBIG: ("it exceeds the largest file size that is allowed here", "raise that limit (ulimit -f)"),
    errno.EROFS: ("the disk is read-only", _OTHER),
    errno.EACCES: ("this user has no permission", f"change the permissions or {_OTHER}"),
    errno.EPERM: ("this user has no permission", f"change the permissions or {_OTHER}"),
    errno.ENOTDIR: ("a part of this path is a file, expected folders", _OTHER),
    errno.EEXIST: ("it exists as a file, expected a folder or nothing", _OTHER),
    errno.EISDIR: ("it is a folder, expected a file", _OTHER),
    errno.ENAMETOOLONG: ("the name is too long", "name a shorter one"),
    errno.ELOOP: ("its symbolic links form a loop", "remove these links or name another place"),
    errno.ENOENT: (
        "it or its folder does not exist",
        "check the name and what may delete it",
    ),
    errno.EMFILE: ("too many files are open", "use fewer --workers or raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "end other programs or use fewer --workers"),
    errno.ENXIO: ("it is a socket or an absent device", _OTHER),
    errno.EIO: ("the disk reports an input/output error", f"check the disk or {_OTHER}"),
    errno.ESTALE: ("the network disk no longer has it", f"mount the disk again or {_OTHER}"),
}
"""errno -> (reason, next step). Other errors of the system are faults of the library."""


def explain(error: OSError, path: Path | None = None) -> UserError | None:
    """Return the sentence for a fault of a disk or path; None for other errors.

    path: the file, if the error does not name one.
    """
    if isinstance(error, SpecialFileError):
        return UserError(f"{error.filename}: {error.strerror}; {_OTHER}, then run the same command again.")
    if error.errno not in _REASONS:
        return None
    reason, step = _REASONS[error.errno]
    file = error.filename2 or error.filename or path
    name = "a file" if file is None else os.fsdecode(file) if isinstance(file, bytes) else str(file)
    return UserError(f"{name}: could not be used because {reason}; {step}, then run the same command again.")


def raise_unless_missing(error: Exception, path: Path) -> None:
    """Raise UserError for a fault that is no damage of a file: permission, too many open files, a sick disk.

    Return for a missing file, and for faults of what it holds, which a caller describes itself.
    """
    if not isinstance(error, OSError) or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, None):
        return
    explained = explain(error, path)
    if explained is not None:
        raise explained from error


@contextlib.contextmanager
def explained_faults(path: Path | None = None) -> Iterator[None]:
    """Turn faults of disks and paths in the block into UserError: the file, the reason, the next step.

    path: the file or folder that the block writes, for errors that name none.
    """
    try:
        yield
    except OSError as error:
        explained = explain(error, path)
        if explained is None:
            raise
        raise explained from error
    except RuntimeError as error:  # of Path.resolve, before Python 3.13
        _, loop, link = str(error).partition("Symlink loop from ")
        if not loop:
            raise
        raise UserError(
            f"{link.strip(chr(39))}: its symbolic links form a loop; remove them or name another place."
        ) from error


def require_room(folder: Path, needed: int = ROOM) -> None:
    """Raise UserError unless `needed` bytes can be written under `folder`, which need not exist.

    Call it before long work. It creates nothing that remains: the nearest existing folder above is tested by
    a nameless file.
    """
    with explained_faults(folder):
        for attempt in range(TRIES):
            try:
                free = _free_above(folder)
                break
            except FileNotFoundError:  # another process removed a folder between two of our calls
                if attempt == TRIES - 1:
                    raise
    if free < needed:
        raise UserError(
            f"{folder}: found {free / 1e6:.1f} MB of free disk space, expected at least "
            f"{needed / 1e6:.1f} MB; {_SPACE}."
        )


def _free_above(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which need not exist; test that it can be written."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir() and os.path.lexists(place):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        return shutil.disk_usage(place).free
    except OSError as error:  # names a file with a random name
        raise OSError(error.errno, error.strerror, str(folder)) from error
