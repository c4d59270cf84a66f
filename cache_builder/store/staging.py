"""Columns that replace an older one when they are finished: made in a folder next to it, then exchanged.

While a data set grows, readers keep the columns of the older index. The new column is `.grow/NAME` in the
data-set folder until it is finished.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.format.file_names import LEDGER
from cckt.cache_builder.store.format.manifest import Manifest, read_manifest
from cckt.cache_builder.store.places.contract import TEMPORARY
from cckt.cache_builder.store.places.files import LocalFiles, open_files

STAGED = ".grow"
"""Folder of the columns in progress, in the data-set folder."""


def staged_place(data: Path | str) -> Path:
    """Return the folder in which columns of a local data set are made before they replace others."""
    return Path(str(data).removeprefix("file://")) / STAGED


def staged_manifest(data: Path | str, name: str) -> Manifest | None:
    """Return the manifest of a column in progress; None if there is none, or `data` is a URL."""
    if not isinstance(open_files(data), LocalFiles):
        return None
    return read_manifest(open_files(staged_place(data), name))


def promote(data: Path | str, name: str) -> None:
    """Exchange the column `name` of `data` for the finished one in `.grow/`.

    Does nothing if there is none, because another maker was faster. After a kill between the two renames, the
    next command does the second one. Raises UserError if the folder cannot be written.
    """
    files, staged = open_files(data, name), open_files(staged_place(data), name)
    assert isinstance(files, LocalFiles), f"expected a folder, found {data}"
    assert isinstance(staged, LocalFiles)
    with files.locked():
        manifest = read_manifest(staged)
        if manifest is not None and manifest.finished:
            _exchange(files, staged)
    # A maker that was slower may have left empty folders of its claims and locks.
    for folder in (staged.folder / LEDGER, staged.folder, staged.folder.parent, staged_place(data)):
        with contextlib.suppress(OSError):  # it holds a column, or is gone
            folder.rmdir()


def _exchange(files: LocalFiles, staged: LocalFiles) -> None:
    """Move the column of `staged` to the place of `files`, and delete what was there."""
    aside = files.folder.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.rename(files.folder, aside)
        files.folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(staged.folder, files.folder)
    except OSError as error:
        raise UserError(
            f"{staged.folder} is finished but could not be moved to {files.folder} ({error.strerror}); "
            "fix that and run the same command again."
        ) from error
    shutil.rmtree(aside, ignore_errors=True)
