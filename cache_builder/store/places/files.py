"""Named bytes behind a column: a local folder here, any fsspec store in `remote.py`.

Everything the store asks of a place is in `ChunkFiles`; a name never changes its bytes half-way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.locks import hold_lock

Bytes = bytes | memoryview

TEMPORARY = ".tmp-"
"""Prefix of file names that a killed writer may leave behind; never part of a column."""


class ChunkFiles(Protocol):
    """Named bytes under one place. Names use "/"; a missing name is None, every other failure a UserError."""

    place: str
    """The folder or URL, for messages."""

    def put(self, name: str, data: Bytes, *, new: bool = False) -> bool:
        """Give a name its bytes, all at once. `new` leaves an existing name alone and returns False."""

    def get(self, name: str) -> bytes | None:
        """The bytes of a name."""

    def size(self, name: str) -> int | None:
        """Bytes a name has; None where there is none."""

    def append(self, name: str, data: bytes) -> None:
        """Add bytes to a name that one writer alone writes; the last line may be torn by a kill."""

    def sizes(self) -> dict[str, int]:
        """Every name under the place with its size in bytes; empty where the place is not there."""

    def remove(self, names: Iterable[str]) -> None:
        """Take names away; those already gone are fine."""

    def clear(self) -> None:
        """Take the whole place away."""

    def alone(self) -> AbstractContextManager[object]:
        """Hold the place against other processes that ask so too; where there are no locks nobody waits."""

    def path(self, name: str) -> Path | None:
        """Where a name can be memory-mapped; None where it cannot."""


class LocalFiles:
    """A folder. Bytes go to a temporary name beside the target, are synced, then renamed."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.place = str(folder)

    def put(self, name: str, data: Bytes, *, new: bool = False) -> bool:
        """See `ChunkFiles.put`. The parent folder must be there, except for a `new` name, which makes it."""
        target = self.folder / name
        temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            if new:
                target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                return _place_new(temporary, target) if new else _replace(temporary, target)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
        except OSError as error:
            raise self._mendable(error, name) from error

    def get(self, name: str) -> bytes | None:
        """See `ChunkFiles.get`."""
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._mendable(error, name) from error

    def size(self, name: str) -> int | None:
        """See `ChunkFiles.size`."""
        try:
            return (self.folder / name).stat().st_size
        except OSError:
            return None

    def append(self, name: str, data: bytes) -> None:
        """See `ChunkFiles.append`: one write call to a file opened for appending."""
        try:
            descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                written = os.write(descriptor, data)
            finally:
                os.close(descriptor)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._mendable(error, name) from error

    def sizes(self) -> dict[str, int]:
        """See `ChunkFiles.sizes`."""
        found: dict[str, int] = {}
        folders = [(self.folder, "")]
        while folders:
            folder, prefix = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append((folder / entry.name, f"{prefix}{entry.name}/"))
                        else:
                            with contextlib.suppress(FileNotFoundError):
                                found[prefix + entry.name] = entry.stat().st_size
            except FileNotFoundError:  # another writer finished and swept; or nothing was made yet
                continue
            except NotADirectoryError:
                continue
            except OSError as error:
                raise self._mendable(error, prefix) from error
        return found

    def remove(self, names: Iterable[str]) -> None:
        """See `ChunkFiles.remove`; folders left empty go too."""
        folders = set()
        for name in names:
            try:
                (self.folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise self._mendable(error, name) from error
            folders.add((self.folder / name).parent)
        for folder in folders - {self.folder}:
            with contextlib.suppress(OSError):  # not empty: another writer's file
                folder.rmdir()

    def clear(self) -> None:
        """See `ChunkFiles.clear`: renamed aside first, so that no one sees half of it."""
        aside = self.folder.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            os.replace(self.folder, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._mendable(error, "") from error
        shutil.rmtree(aside, ignore_errors=True)

    def alone(self) -> AbstractContextManager[object]:
        """See `ChunkFiles.alone`. The lock lies beside the folder, which may come and go while it is held."""
        return hold_lock(self.folder.parent / f"{TEMPORARY}lock-{self.folder.name}", wait=True)

    def path(self, name: str) -> Path:
        """See `ChunkFiles.path`."""
        return self.folder / name

    def _mendable(self, error: OSError, name: str) -> UserError:
        """The sentence for what a file system can do to us."""
        target = self.folder / name
        again = "what is finished is kept, run the same command again to go on"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return UserError(
                f"{target} could not be written because the disk or quota is full: free some space; {again}."
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return UserError(
                f"{target} cannot be used because the folder is read-only for this user: expected a folder "
                f"that can be written, change its permissions or name another one; {again}."
            )
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return UserError(
                f"{target} cannot be written because its folder vanished or is a file: expected the folder "
                "that the command began with, bring it back and run the same command again."
            )
        return UserError(f"{target} could not be used ({error.strerror or error}): mend that; {again}.")


def _replace(temporary: Path, target: Path) -> bool:
    os.replace(temporary, target)
    return True


def _place_new(temporary: Path, target: Path) -> bool:
    """Rename that never replaces: a hard link fails where the name exists."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        if target.exists():  # a file system without hard links: a narrow window instead of none
            return False
        os.replace(temporary, target)
    return True


def open_files(data: Path | str, name: str = "") -> ChunkFiles:
    """The place `name` under `data`: a folder, or a URL such as s3://bucket/coco-train.

    Raises UserError where a URL's scheme needs a library that is not installed.
    """
    text = str(data)
    if text.startswith("file://"):
        data = Path(text.removeprefix("file://"))
    elif "://" in text:
        from cckt.cache_builder.store.places.remote import RemoteFiles

        return RemoteFiles("/".join(part for part in (text.rstrip("/"), name) if part))
    return LocalFiles(Path(data) / name)
