"""The arrays of an index, their files and their digests."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.vocabulary import Vocabulary

SCHEMA = 2
"""The newest schema. 1: all boxes are annotated. 2: `box_origins` marks the boxes that are not. Schema 2 is
written only for an index with such boxes, so that a cckt without `box_origins` refuses it."""
FOLDER = "index"
CARD = "index.json"


@dataclass(frozen=True, eq=False)
class Tables:
    """Every array of an index, each stored in one `.npy` file named after the field.

    I images by ascending image id, M boxes by (image row, annotation id), C concepts by category id.
    Lists of varying length are stored as offsets and values: the entries of row k are
    `values[offsets[k] : offsets[k + 1]]`.
    """

    image_ids: NDArray[np.int64]
    """(I,)"""
    widths: NDArray[np.int32]
    """(I,) pixels."""
    heights: NDArray[np.int32]
    """(I,) pixels."""
    file_name_bytes: NDArray[np.uint8]
    """All file names in UTF-8, concatenated."""
    file_name_offsets: NDArray[np.int64]
    """(I + 1,)"""
    box_offsets: NDArray[np.int64]
    """(I + 1,) box rows of an image."""
    neg_offsets: NDArray[np.int64]
    """(I + 1,) LVIS: concepts verified to be absent from the image."""
    neg_rows: NDArray[np.int32]
    """Concept rows."""
    not_exhaustive_offsets: NDArray[np.int64]
    """(I + 1,) LVIS: concepts that have instances without annotation in the image."""
    not_exhaustive_rows: NDArray[np.int32]
    """Concept rows."""
    annotation_ids: NDArray[np.int64]
    """(M,)"""
    box_images: NDArray[np.int32]
    """(M,) image rows."""
    box_concepts: NDArray[np.int32]
    """(M,) concept rows."""
    box_xyxy: NDArray[np.float64]
    """(M, 4) pixels of the original image, 0 <= x0 < x1 <= width and likewise y."""
    areas: NDArray[np.float64]
    """(M,) square pixels: the file's area (of the mask), or the box's where the file has none."""
    iscrowd: NDArray[np.bool_]
    """(M,)"""
    difficult: NDArray[np.bool_]
    """(M,) the file's "difficult" or "ignore"."""
    concept_box_offsets: NDArray[np.int64]
    """(C + 1,) boxes of a concept."""
    concept_boxes: NDArray[np.int32]
    """(M,) box rows, ascending within a concept."""
    box_origins: NDArray[np.uint8] | None = field(default=None, kw_only=True)
    """(M,) 0 annotated, 1 found by a run; None: all are annotated."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that this index has."""
        return NAMES if self.box_origins is None else (*NAMES, "box_origins")


DTYPES: dict[str, type[np.generic]] = {
    "image_ids": np.int64, "widths": np.int32, "heights": np.int32,
    "file_name_bytes": np.uint8, "file_name_offsets": np.int64, "box_offsets": np.int64,
    "neg_offsets": np.int64, "neg_rows": np.int32,
    "not_exhaustive_offsets": np.int64, "not_exhaustive_rows": np.int32,
    "annotation_ids": np.int64, "box_images": np.int32, "box_concepts": np.int32,
    "box_xyxy": np.float64, "areas": np.float64, "iscrowd": np.bool_, "difficult": np.bool_,
    "concept_box_offsets": np.int64, "concept_boxes": np.int32, "box_origins": np.uint8,
}  # fmt: skip
NAMES = tuple(one.name for one in fields(Tables) if one.name != "box_origins")
# Derived from other arrays, or (file names) dependent on the images folder.
_NOT_DIGESTED = {"concept_box_offsets", "concept_boxes", "file_name_bytes", "file_name_offsets"}


def row_offsets(rows: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Return (n + 1,) offsets of entries grouped by row. rows: the row, 0 to n - 1, of each entry."""
    counts = np.bincount(rows, minlength=n) if len(rows) else np.zeros(n, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def boxes_by_concept(box_concepts: NDArray[Any], concepts: int) -> dict[str, NDArray[Any]]:
    """Return the arrays `concept_box_offsets` and `concept_boxes` that follow from `box_concepts` (M,)."""
    return {
        "concept_box_offsets": row_offsets(box_concepts, concepts),
        "concept_boxes": np.argsort(box_concepts, kind="stable").astype(np.int32),
    }


def tables_digest(tables: Tables, concepts: Vocabulary, exif: str = "ignore") -> str:
    """Return "sha256:..." over the contents of the three tables, and over `Index.exif` where it is "apply".

    Only the last part of a file name counts, unless another image has the same one. So an index of the same
    images in other folders is the same index, and its columns stay valid.
    """
    digest = hashlib.sha256(concepts.digest.encode())
    for name in tables.names:
        if name not in _NOT_DIGESTED:
            values = np.ascontiguousarray(getattr(tables, name))
            digest.update(f"\n{name} {values.dtype.str} {values.shape}\n".encode())
            digest.update(values.tobytes() if values.dtype == np.bool_ else values.data)
    names = _split_names(tables)
    last = [name.rpartition(b"/")[2] for name in names]
    times = Counter(last)
    own = (short if times[short] == 1 else name for name, short in zip(names, last, strict=True))
    digest.update(b"\nfile names\n" + b"\0".join(own))
    if exif != "ignore":  # the same boxes, of other pixels
        digest.update(f"\nexif {exif}".encode())
    return "sha256:" + digest.hexdigest()


def tables_folder(tables: Tables, digest: str) -> str:
    """Return the name of the folder of the arrays: "tables-" and 16 hex digits over the digest and the full
    file names.
    """
    whole = hashlib.sha256(digest.encode() + b"\0".join(_split_names(tables)))
    return "tables-" + whole.hexdigest()[:16]


def _split_names(tables: Tables) -> list[bytes]:
    blob, offsets = tables.file_name_bytes.tobytes(), tables.file_name_offsets.tolist()
    return [blob[low:high] for low, high in pairwise(offsets)]
