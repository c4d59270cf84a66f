"""Write an index into its folder in one step, so that readers see the old index or the new one.

Only what a build wrote is replaced or swept: index.json is ours if it is a card, or if tables of ours are
next to it; a folder is ours if its name has the form that builds give it and it holds nothing but our tables.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.atomic_files import is_running, place
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.locks import hold_lock
from cckt.cache_builder.base.ownership import json_mark, require_ours_or_absent
from cckt.cache_builder.base.untrusted.regular_files import read_regular, read_regular_text
from cckt.cache_builder.base.untrusted.text import natural
from cckt.cache_builder.index.card import card_text, sealed_card
from cckt.cache_builder.index.formats.repairs import is_repairs_file
from cckt.cache_builder.index.generations import KEPT_CARD, cards, kept_card, kept_names, record_file
from cckt.cache_builder.index.tables import CARD, DTYPES, FOLDER, Tables

LOCK = ".lock"
_FOLDERS = re.compile(r"tables-[0-9a-f]{16}|\.(building|damaged)-[0-9]+")
_RECORD = re.compile(r"photos-[0-9a-f]{16}\.npy")
_TEMPORARY_CARD = re.compile(rf"\.{re.escape(CARD)}-[0-9]+")


def write_index(
    out: Path,
    tables: Tables,
    card: dict[str, Any],
    listed: tuple[str, str] | None = None,
    photos: bytes | None = None,
) -> bool:
    """Write tables and card to `out/index/`. Return whether the same index was there already.

    listed: name and text of one more file, which the card names. photos: contents of the record of the photos
    (see `photo_record`); None for none.

    The index that is replaced is kept under its digest while a column in `out` belongs to it (see
    `generations`). The card holds the digest of every file and its own. It names the folder of its tables and
    is replaced last, in one step. Until then the old index is valid, after it the new one. A build that is
    killed leaves at most an unused folder, which the next build removes. Processes that have mapped the old
    tables keep them. Raises UserError where `out` cannot be written, where another build is writing there, or
    where files of somebody else are in the way.
    """
    with hold_lock(out / FOLDER / LOCK, wait=False) as held:
        if not held:
            raise UserError(
                f"{out / FOLDER}: found another build that is writing there, expected none; wait until it is "
                "done, or choose another --out"
            )
        return _write_locked(out, tables, card, listed, photos)


def _write_locked(
    out: Path, tables: Tables, card: dict[str, Any], listed: tuple[str, str] | None, photos: bytes | None
) -> bool:
    folder = out / FOLDER
    card = sealed_card(card, tables)
    text = card_text(card)
    target = folder / card["tables"]
    _require_ours(folder, target)
    try:
        same_tables = _same_tables(target, card["files"])
        same_files = all(
            (folder / name).is_file() and read_regular_text(folder / name) == content
            for name, content in ((CARD, text), *([listed] if listed else []))
        )
        record = folder / record_file(card["tables"])
        same_record = photos is None or (record.is_file() and read_regular(record) == photos)
        unchanged = same_tables and same_files
        folder.mkdir(parents=True, exist_ok=True)
        if not same_tables:
            _write_tables(folder, target, tables)
        if listed and not same_files:  # its name has the digest of its text: no older card names another text
            (folder / listed[0]).write_text(listed[1], encoding="utf-8")
        temporary = folder / f".{CARD}-{os.getpid()}"
        if photos is not None and not same_record:  # before the card, so that no index is without its record
            place(photos, record, temporary)
        if not unchanged:
            _keep_old_card(folder, card)
            place(text.encode(), folder / CARD, temporary)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): free space or choose another --out"
        ) from error
    own = {CARD, card["tables"], listed[0] if listed else ""}
    own |= {record.name} if unchanged or photos is not None else set()
    _sweep(folder, own | kept_names(out))  # also what a killed build left
    return unchanged


def _keep_old_card(folder: Path, card: dict[str, Any]) -> None:
    """Store the card that is about to be replaced under the name of its tables, if it is of another index."""
    old = cards(folder.parent)[:1]
    if not old or not (folder / CARD).is_file() or old[0]["digest"] in (card["digest"], None):
        return
    name = kept_card(str(old[0]["tables"]))
    if KEPT_CARD.fullmatch(name):
        place(read_regular(folder / CARD), folder / name, folder / f".{CARD}-{os.getpid()}")


def _write_tables(folder: Path, target: Path, tables: Tables) -> None:
    building = folder / f".building-{os.getpid()}"
    if _is_ours(building):  # left by a killed process that had this number
        shutil.rmtree(building)
    building.mkdir()
    try:
        for name in tables.names:
            values = np.ascontiguousarray(getattr(tables, name), dtype=DTYPES[name])
            np.save(building / f"{name}.npy", values, allow_pickle=False)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        raise
    if target.exists():  # its contents differ from its name, so it was damaged
        os.rename(target, folder / f".damaged-{os.getpid()}")
    os.rename(building, target)


def _same_tables(folder: Path, digests: dict[str, str]) -> bool:
    try:
        return all(file_digest(folder / name) == digest for name, digest in digests.items())
    except OSError:
        return False


def _require_ours(folder: Path, target: Path) -> None:
    """Raise UserError if index.json or the folder of the tables exists and is not ours."""
    card = json_mark("schema", "digest", "tables")

    def mark(path: Path) -> bool:
        return card(path) or any(map(_is_ours, folder.glob("tables-*")))

    require_ours_or_absent(folder / CARD, mark, "an index made by cckt data index")
    require_ours_or_absent(target, _is_ours, "a folder of tables made by cckt data index")


def _is_ours(folder: Path) -> bool:
    """Return whether a folder was made by a build: by its name, and because it holds only our tables."""
    if not _FOLDERS.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    known = {f"{name}.npy" for name in DTYPES}
    return all(path.name in known and path.is_file() for path in folder.iterdir())


def is_left_behind(path: Path) -> bool:
    """Return whether a path inside `index/` is what a killed build left: the next build removes it."""
    return _is_ours(path) or (_TEMPORARY_CARD.fullmatch(path.name) is not None and path.is_file())


def _sweep(folder: Path, keep: set[str]) -> None:
    """Remove what earlier builds left, except temporary files of a process that is still running."""
    for path in folder.iterdir():
        name, _, pid = path.name.rpartition("-")
        number = natural(pid)
        alive = number is not None and is_running(number)
        if path.name in keep or (name in (".building", f".{CARD}") and alive):
            continue
        if _is_ours(path):
            shutil.rmtree(path, ignore_errors=True)
        elif is_left_behind(path) or (
            path.is_file()
            and (KEPT_CARD.fullmatch(path.name) or _RECORD.fullmatch(path.name) or is_repairs_file(path.name))
        ):
            path.unlink(missing_ok=True)
