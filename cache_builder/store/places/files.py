"""A column in a local folder; and the choice between a folder and a URL."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from cckt.cache_builder.base import atomic_files
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.locks import hold_lock
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.store.places.contract import TEMPORARY, Bytes, ChunkFiles, check_name
from cckt.cache_builder.store.places.remote import RemoteFiles


class LocalFiles:
    """`ChunkFiles` in a folder. Bytes are synced to a temporary file in the target's folder, then renamed."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.place = str(folder)

    def put(self, name: str, data: Bytes, *, new: bool = False) -> bool:
        """See `ChunkFiles.put`. The parent folder must exist, except for a `new` name, which makes it."""
        target = self.folder / name
        try:
            if new:
                target.parent.mkdir(parents=True, exist_ok=True)
            return atomic_files.place(data, target, self._temporary(target.parent), new=new)
        except OSError as error:
            raise self._explained(error, name) from error

    def get(self, name: str) -> bytes | None:
        """See `ChunkFiles.get`. Raises UserError for a pipe or a device: reading it might never end."""
        path = self.folder / name
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise UserError(f"{path}: is a pipe or a device, expected a file; remove it and try again.")
            return read_regular(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._explained(error, name) from error

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
            raise self._explained(error, name) from error

    def sizes(self, folder: str = "") -> dict[str, int]:
        """See `ChunkFiles.sizes`."""
        found: dict[str, int] = {}
        folders = [(self.folder / folder, folder)]
        while folders:
            place, prefix = folders.pop()
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append((place / entry.name, f"{prefix}{entry.name}/"))
                        else:
                            with contextlib.suppress(FileNotFoundError):
                                found[prefix + entry.name] = entry.stat().st_size
            except (FileNotFoundError, NotADirectoryError):  # another writer swept it, or it was never made
                continue
            except OSError as error:
                raise self._explained(error, prefix) from error
        return found

    def remove(self, names: Iterable[str]) -> None:
        """See `ChunkFiles.remove`; folders that this empties are removed too."""
        folders = set()
        for name in names:
            try:
                (self.folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise self._explained(error, name) from error
            folders.add((self.folder / name).parent)
        for folder in folders - {self.folder}:
            with contextlib.suppress(OSError):  # it holds another writer's file
                folder.rmdir()

    def clear(self) -> None:
        """See `ChunkFiles.clear`. The folder is renamed first, so that no one sees a part of it."""
        aside = self._temporary(self.folder.parent)
        try:
            os.replace(self.folder, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._explained(error, "") from error
        shutil.rmtree(aside, ignore_errors=True)

    def locked(self) -> AbstractContextManager[object]:
        """See `ChunkFiles.locked`. The lock file is next to the folder, which may be replaced meanwhile."""
        return hold_lock(self.folder.parent / f"{TEMPORARY}lock-{self.folder.name}", wait=True)

    def path(self, name: str) -> Path:
        """See `ChunkFiles.path`."""
        return self.folder / name

    @staticmethod
    def _temporary(folder: Path) -> Path:
        return folder / f"{TEMPORARY}{uuid.uuid4().hex}"

    def _explained(self, error: OSError, name: str) -> UserError:
        """The sentence for a fault of the file system."""
        target = self.folder / name
        again = "what is finished is kept, run the same command again to resume"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return UserError(
                f"{target} could not be written because the disk or quota is full: free some space; {again}."
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "the disk is read-only" if error.errno == errno.EROFS else "this user has no permission"
            return UserError(
                f"{target} cannot be used because {why}: change the permissions of the folder or name "
                f"another one; {again}."
            )
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return UserError(
                f"{target} cannot be written because its folder vanished or is a file: expected the folder "
                "that the command began with, restore it and run the same command again."
            )
        return UserError(f"{target} could not be used ({error.strerror or error}): fix that; {again}.")


def open_files(data: Path | str, name: str = "") -> ChunkFiles:
    """Return the place `name` under `data`: a folder, or a URL such as s3://bucket/coco-train.

    Raises UserError for a name that is not a column's, which could be outside `data`, and for a URL whose
    library is not installed.
    """
    if name:
        check_name(name)
    text = str(data)
    if text.startswith("file://"):
        data = Path(text.removeprefix("file://"))
    elif "://" in text:
        return RemoteFiles("/".join(part for part in (text.rstrip("/"), name) if part))
    return LocalFiles(Path(data) / name)
