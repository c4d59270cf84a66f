"""The record of a data set's photos: the digest of each file, its size in pixels, and the state of the file.

A later index of the same data set proves with it which photos are unchanged, whatever their names, so that
rows of columns can be copied. A file of the same size, modification time and inode is not read again.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.disk_faults import NO_FILES
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.base.untrusted.npy_files import parse_npy
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.index.generations import record_file, times_of_columns
from cckt.cache_builder.index.photo_files.headers import THREADS, PhotoHeaders, read_header
from cckt.cache_builder.index.reader import Index
from cckt.cache_builder.index.tables import FOLDER

DTYPE = np.dtype(
    [
        ("bytes", "<i8"),
        ("mtime_ns", "<i8"),
        ("inode", "<u8"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("orientation", "<i4"),
        ("sha256", "u1", (32,)),
    ]
)
"""One photo: state and header of its file (see `PhotoHeaders`), and the digest of its bytes.

The digest is zero for a file that is missing, that cannot be read or was not read. The inode is zero where
size and time do not prove that the file is unchanged, see `_TICK_NS`."""

DIGEST_BYTES = 32
"""Length of the sha256 at the end of the file of a record."""

_APART = -1
"""Modification time of an entry that `set_apart` changed."""

_TICK_NS = 2_000_000_000
"""A file that changed this short a time before it was read may change again within the resolution of its
modification time (2 s on FAT, less elsewhere)."""


def record_photos(
    root: Path,
    names: Sequence[str],
    progress: Progress,
    known: Sequence[NDArray[Any]] = (),
    *,
    digests: bool = True,
) -> NDArray[Any]:
    """Return the record, (I,) of DTYPE, of the files `root / name` of I names.

    known: earlier records of this data set; a file that is in one of them in the same state is not opened.
    digests: False leaves the digests of other files zero, and reads only their headers.
    """
    earlier: dict[tuple[int, int, int], NDArray[Any]] = {}
    for record in known:
        usable = record[record["inode"] != 0]
        if digests:
            usable = usable[usable["sha256"].any(axis=1)]
        states = (usable[name].tolist() for name in ("bytes", "mtime_ns", "inode"))
        earlier.update(zip(zip(*states, strict=True), usable, strict=True))

    def one(name: str) -> Any:
        return _record(root / name, earlier, digests)

    progress.start("read photos" if digests else "read photo headers", len(names), "photos")
    found = np.zeros(len(names), DTYPE)
    found["orientation"] = 1
    with ThreadPoolExecutor(THREADS) as pool:
        for row, entry in enumerate(pool.map(one, names, chunksize=64)):
            if entry is not None:
                found[row] = entry
            progress.advance()
    progress.finish()
    return found


def headers_of(record: NDArray[Any]) -> PhotoHeaders:
    """Return the headers that a record holds."""
    sizes = np.stack([record["width"], record["height"]], axis=1)
    return PhotoHeaders(sizes, record["orientation"].astype(np.int8))


def record_bytes(record: NDArray[Any]) -> bytes:
    """Return the contents of the file of a record: a .npy file, and after it the sha256 of its bytes."""
    held = io.BytesIO()
    np.lib.format.write_array(held, record, allow_pickle=False)
    return held.getvalue() + hashlib.sha256(held.getvalue()).digest()


def photo_record(index: Index) -> NDArray[Any] | None:
    """Return the record of an index's photos, (I,) of DTYPE; None if it has none, or one that is damaged."""
    record = read_record(index.folder / FOLDER / record_file(index.card["tables"]))
    return record if record is not None and len(record) == len(index) else None


def read_record(path: Path) -> NDArray[Any] | None:
    """Return the record in a file; None if there is none or it is damaged."""
    try:
        if not path.is_file():  # opening a pipe would block
            return None
        content = read_regular(path)
        if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
            return None
        record: NDArray[Any] = parse_npy(content)
    except (OSError, ValueError):
        return None
    return record if record.dtype == DTYPE and record.ndim == 1 else None


def set_apart(
    record: NDArray[Any], data: Path, tables: str, digest: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return a record with the photos that columns were not made from set apart, and the rows of these.

    record: of the index `digest`, whose folder of tables is `tables`. If a column of the data set names this
    index, its rows are of the photos in the record that is there already. A photo with another digest now
    gets one that no photo has, so that no row of it is ever copied, until all columns are made again.
    """
    none, path = np.zeros(0, np.int64), data / FOLDER / record_file(tables)
    old = read_record(path)
    made = times_of_columns(data, digest)
    if old is None or len(old) != len(record) or not made:
        return record, none
    known = old["sha256"].any(axis=1) & record["sha256"].any(axis=1)
    if min(made) > path.stat().st_mtime_ns:  # made after these were set apart
        known &= old["mtime_ns"] != _APART
    rows = np.flatnonzero(known & (old["sha256"] != record["sha256"]).any(axis=1))
    record = record.copy()
    for row in rows.tolist():
        both = old["sha256"][row].tobytes() + record["sha256"][row].tobytes()
        record["sha256"][row] = np.frombuffer(hashlib.sha256(both).digest(), np.uint8)
        record["inode"][row], record["mtime_ns"][row] = 0, _APART  # the file is read again next time
    return record, rows


def known_records(data: Path) -> list[NDArray[Any]]:
    """Return the records of all indexes of a data-set folder."""
    found = (read_record(path) for path in sorted((data / FOLDER).glob("photos-*.npy")))
    return [record for record in found if record is not None]


def _record(path: Path, earlier: dict[tuple[int, int, int], Any], digests: bool) -> Any:
    """The entry of one file; None if it cannot be read."""
    entry = np.zeros((), DTYPE)
    try:
        if not path.is_file():  # a pipe would block
            return None
        before = path.stat()
        state = (before.st_size, before.st_mtime_ns, before.st_ino)
        if state in earlier:
            return earlier[state]
        header = read_header(path)
        if digests:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                after = os.fstat(file.fileno())
            if (after.st_size, after.st_mtime_ns, after.st_ino) != state:  # it changes at this moment
                digest = bytes(32)
            entry["sha256"] = np.frombuffer(digest, np.uint8)
    except (OSError, ValueError) as fault:  # ValueError: a NUL in the name
        if isinstance(fault, OSError) and fault.errno in NO_FILES:
            raise
        return None
    settled = time.time_ns() - before.st_mtime_ns > _TICK_NS
    entry["bytes"], entry["mtime_ns"], entry["inode"] = state[0], state[1], state[2] if settled else 0
    entry["width"], entry["height"], entry["orientation"] = header or (0, 0, 1)
    return entry
