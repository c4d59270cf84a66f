"""Photos that two data sets have in common, such as one to train on and one to evaluate on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import counted
from cckt.cache_builder.index.photo_files.record import photo_record
from cckt.cache_builder.index.reader import Index


def shared_photos(first: Index, second: Index) -> NDArray[np.int64]:
    """Return the ascending image rows of `second` whose photo is one of `first`: the same file or bytes.

    Bytes are compared by the digests that were recorded when the indexes were built.
    """
    files, digests = set(_files(first)), set(_digests(first)) - {b""}
    pairs = zip(_files(second), _digests(second), strict=True)
    rows = [row for row, (file, digest) in enumerate(pairs) if file in files or digest in digests]
    return np.array(rows, np.int64)


def shared_note(train: Index, val: Index) -> str:
    """Return a sentence on photos of `val` that are trained on; "" if there are none."""
    rows = shared_photos(train, val)
    if not len(rows):
        return ""
    photos = counted(len(rows), "photo is", "photos are")
    return (
        f"{photos} both in {train.folder} and in {val.folder}, which has {len(val)} (the first is "
        f"{val.file_name(int(rows[0]))}), so figures on them do not show what the detector does on new "
        "photos; "
        "divide the photos with cckt data split"
    )


def _files(index: Index) -> list[str]:
    root = index.image_root.resolve()
    return [str(root / index.file_name(row)) for row in range(len(index))]


def _digests(index: Index) -> list[bytes]:
    """Return the digest of each photo, b"" where it is not known."""
    record = photo_record(index)
    if record is None:
        return [b""] * len(index)
    return [one.tobytes() if one.any() else b"" for one in record["sha256"]]
