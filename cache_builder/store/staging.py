"""Columns that replace an older one when they are finished: made in a folder next to it, then exchanged.

While a data set grows, readers keep the columns of the older index. The new column is `.grow/NAME` in the
data-set folder until it is finished.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from pathlib import Path

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.listing import found_in
from cckt.cache_builder.store.format.file_names import LEDGER, foreign_names
from cckt.cache_builder.store.format.manifest import Manifest, read_manifest
from cckt.cache_builder.store.places.contract import TEMPORARY
from cckt.cache_builder.store.places.files import LocalFiles, open_files

STAGED = ".grow"
"""Folder of the columns in progress, in the data-set folder."""

KEPT = ".kept"
"""Folder of replaced proposals tables that other columns still belong to, by their digests."""


_ASIDE = re.compile(rf"{re.escape(TEMPORARY)}[0-9a-f]{{32}}")


def staged_place(data: Path | str) -> Path:
    """Return the folder in which columns of a local data set are made before they replace others."""
    return Path(str(data).removeprefix("file://")) / STAGED


def staged_manifest(data: Path | str, name: str) -> Manifest | None:
    """Return the manifest of a column in progress; None if there is none, or `data` is a URL."""
    if not isinstance(open_files(data), LocalFiles):
        return None
    return read_manifest(open_files(staged_place(data), name))


def kept_place(data: Path | str, digest: str) -> Path:
    """Return the folder in which a replaced column is kept under a digest ("" for the folder of all)."""
    folder = Path(str(data).removeprefix("file://")) / KEPT
    return folder / digest.removeprefix("sha256:")[:16] if digest else folder


def kept_places(data: Path | str) -> list[Path]:
    """Return the folders in which replaced columns of a data set are kept; none for a URL."""
    if not isinstance(open_files(data), LocalFiles):
        return []
    return sorted(path for path in found_in(kept_place(data, ""), "*") if path.is_dir())


def promote(data: Path | str, name: str, keep: str = "") -> None:
    """Exchange the column `name` of `data` for the finished one in `.grow/`.

    keep: digest under which the column that was there is kept; "" deletes it. Does nothing if there is no
    finished one, because another maker was faster. After a kill between the two renames, the next command
    does the second one. Raises UserError if the folder cannot be written, or if the old column's folder holds
    files that do not belong to a column.
    """
    files, staged = open_files(data, name), open_files(staged_place(data), name)
    assert isinstance(files, LocalFiles), f"expected a folder, found {data}"
    assert isinstance(staged, LocalFiles)
    with files.locked():
        manifest = read_manifest(staged)
        if manifest is not None and manifest.finished:
            _exchange(files, staged, kept_place(data, keep) / name if keep else None)
    # A maker that was slower may have left empty folders of its claims and locks.
    for folder in (staged.folder / LEDGER, staged.folder, staged.folder.parent, staged_place(data)):
        with contextlib.suppress(OSError):  # it holds a column, or is gone
            folder.rmdir()


def sweep_aside(files: LocalFiles) -> None:
    """Delete the columns next to the place of `files` that a killed process had renamed to delete them."""
    for path in files.folder.parent.glob(f"{TEMPORARY}*"):
        ours = _ASIDE.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if ours and not foreign_names(LocalFiles(path).sizes()):
            shutil.rmtree(path, ignore_errors=True)


def _exchange(files: LocalFiles, staged: LocalFiles, kept: Path | None) -> None:
    """Move the column of `staged` to the place of `files`, and what was there to `kept`, or delete it."""
    foreign = foreign_names(files.sizes())
    if foreign:
        raise UserError(
            f"{files.place} holds {foreign[0]}, which does not belong to a column and would be deleted with "
            "the old one; move it away, then run the same command again: the new column is finished."
        )
    aside = files.folder.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    if kept is not None and not kept.exists():
        aside = kept
        aside.parent.mkdir(parents=True, exist_ok=True)
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
    if aside != kept:
        shutil.rmtree(aside, ignore_errors=True)
