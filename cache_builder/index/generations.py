"""Earlier indexes of a data set, kept while a column of theirs is in the data set.

When an index replaces another one, the card of the old one becomes `index-<16 hex digits>.json`, where the
digits are those of its tables' folder. It can be opened by its digest until no column names that digest.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.listing import found_in
from cckt.cache_builder.base.untrusted.regular_files import read_regular, read_regular_text
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.index.tables import CARD, DTYPES, FOLDER

KEPT_CARD = re.compile(r"index-[0-9a-f]{16}\.json")
_TABLES = re.compile(r"tables-[0-9a-f]{16}")
_COLUMN_DOCUMENTS = (
    "*/zarr.json",
    "*/*/zarr.json",
    ".grow/*/zarr.json",
    ".grow/*/*/zarr.json",
    ".kept/*/*/*/zarr.json",
)


def record_file(tables: str) -> str:
    """Return the name of the file of an index's photo record, from the name of the folder of its tables."""
    return f"photos-{tables.removeprefix('tables-')}.npy"


def kept_card(tables: str) -> str:
    """Return the file name of the card of an earlier index, from the name of the folder of its tables."""
    return f"index-{tables.removeprefix('tables-')}.json"


def cards(data: Path) -> list[dict[str, Any]]:
    """Return the cards of all indexes of a data-set folder that can be read, the current one first."""
    folder = data / FOLDER
    try:
        kept = sorted(path for path in folder.iterdir() if KEPT_CARD.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for path in (folder / CARD, *kept):
        try:
            card = parse_json(read_regular_text(path)) if path.is_file() else None
        except (OSError, ValueError):
            continue
        if isinstance(card, dict) and isinstance(card.get("digest"), str) and "tables" in card:
            found.append(card)
    return found


def digests_in_use(data: Path) -> bytes:
    """Return the documents of the data set's columns, one after the other: they hold the digests in use."""
    found = []
    for path in found_in(data, *_COLUMN_DOCUMENTS):
        try:
            found.append(read_regular(path) if path.is_file() else b"")
        except OSError:
            continue
    return b"\n".join(found)


def times_of_columns(data: Path, digest: str) -> list[int]:
    """Return the modification times, in ns, of the documents of the data set's columns that name an index."""
    found = []
    for path in found_in(data, *_COLUMN_DOCUMENTS):
        try:
            if path.is_file() and digest.encode() in read_regular(path):
                found.append(path.stat().st_mtime_ns)
        except OSError:
            continue
    return found


def kept_names(data: Path) -> set[str]:
    """Return the names in `index/` that belong to earlier indexes in use: cards, tables, records, repairs."""
    used, names = digests_in_use(data), set[str]()
    for card in cards(data)[1:]:
        if card["digest"].encode() in used:
            tables = str(card["tables"])
            names |= {kept_card(tables), tables, record_file(tables)}
            repairs = card.get("repairs")
            names |= {str(repairs.get("file"))} if isinstance(repairs, dict) else set()
    return names


def sweep_generations(data: Path) -> None:
    """Remove the earlier indexes of which the data set has no column any more.

    The card goes last: after a kill, the next sweep still knows what belongs to it.
    """
    kept = kept_names(data)
    folder = data / FOLDER
    if not (folder / CARD).is_file() or not cards(data):
        return
    kept.add(str(cards(data)[0]["tables"]))
    for card in cards(data)[1:]:
        tables = str(card["tables"])
        if kept_card(tables) in kept or not _TABLES.fullmatch(tables):
            continue
        if tables not in kept:
            _remove_tables(folder / tables)
            (folder / record_file(tables)).unlink(missing_ok=True)
        (folder / kept_card(tables)).unlink(missing_ok=True)


def _remove_tables(folder: Path) -> None:
    """Remove a folder of tables that holds nothing else."""
    known = {f"{name}.npy" for name in DTYPES}
    ours = folder.is_dir() and not folder.is_symlink()
    if ours and all(path.name in known and path.is_file() for path in found_in(folder, "*")):
        shutil.rmtree(folder, ignore_errors=True)
