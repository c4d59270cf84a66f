"""Names of the files of a column, relative to its folder, and which names are of no column."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cckt.cache_builder.store.places.contract import TEMPORARY

GROUP = "zarr.json"
"""The zarr group document, which holds the manifest. It is written last and decides what the folder is."""

LEDGER = "ledger/"
"""Folder of the ledgers of an unfinished column."""

BEGUN = f"{LEDGER}begin"
"""An empty file, so that the folder of the ledgers exists."""

CLAIM = f"{LEDGER}claim-"
"""Start of the names of claims: claim-UNITS-UNIT-GENERATION."""

MAKER = f"{LEDGER}maker-"
"""Start of the names of the signs of life of makers."""

ARRAYS = ("values", "valid")

_FOLDERS = ("", *ARRAYS, LEDGER.rstrip("/"))
_PART = re.compile(
    r"zarr\.json|(values|valid)/zarr\.json|values/c\.[0-9]+\.0|valid/c\.[0-9]+|ledger/begin|ledger/[^/]+\.jsonl"
)
_CLAIM = re.compile(r"ledger/(claim-[0-9]+-[0-9]+-[0-9]+|maker-[0-9a-f]{32})")


def chunk_file(array: str, chunk: int) -> str:
    """Return the name of a chunk file (zarr v3 "default" chunk keys with separator ".")."""
    return f"values/c.{chunk}.0" if array == "values" else f"{array}/c.{chunk}"


def document_file(array: str) -> str:
    """Return the name of an array's zarr document."""
    return f"{array}/zarr.json"


def is_ledger(name: str) -> bool:
    """Return whether a name is of a ledger."""
    return name.startswith(LEDGER) and _PART.fullmatch(name) is not None


def is_temporary(name: str) -> bool:
    """Return whether a name is of a file that a killed writer left behind."""
    folder, _, last = name.rpartition("/")
    return folder in _FOLDERS and last.startswith(TEMPORARY)


def is_claim(name: str) -> bool:
    """Return whether a name is of a claim, or of the sign of life of a maker; see `claims.Claims`."""
    return _CLAIM.fullmatch(name) is not None


def foreign_names(names: Iterable[str]) -> list[str]:
    """Return the names that no column has, sorted: files of somebody else, never to be deleted.

    What a file system leaves behind does not count: markers of empty folders, `.nfs` files, `.DS_Store`.
    """
    ours = (_PART.fullmatch, is_claim, is_temporary, _left)
    return sorted(name for name in names if not any(one(name) for one in ours))


def _left(name: str) -> bool:
    last = name.rpartition("/")[2]
    return not last or last == ".DS_Store" or last.startswith(".nfs")
