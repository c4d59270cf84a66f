"""Whether the tables of an index fit each other, so that no reader leaves an array or the images folder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.index.file_names import check_inside
from cckt.cache_builder.index.tables import Tables

_OFFSETS = {
    "file_name_offsets": "file_name_bytes",
    "box_offsets": "box_xyxy",
    "neg_offsets": "neg_rows",
    "not_exhaustive_offsets": "not_exhaustive_rows",
    "concept_box_offsets": "concept_boxes",
}
"""Offsets -> the values that they divide."""


def misfit(tables: Tables, *, images: int, boxes: int, concepts: int) -> str:
    """Return what does not fit in tables that may come from anywhere; "" if all is well.

    images, boxes, concepts: the numbers of rows that the card states. Reads every array of ids, sizes, rows,
    offsets and names, which is about 12 bytes a box; `index_problems` reads the rest.
    """
    return (
        _wrong_shape(tables, images, boxes, concepts)
        or _wrong_rows(tables, images, boxes, concepts)
        or _wrong_file_name(tables)
    )


def _wrong_shape(tables: Tables, images: int, boxes: int, concepts: int) -> str:
    """Return the array whose length is not that which the counts and the other arrays imply."""
    for name in tables.names:
        sides = getattr(tables, name).ndim
        if sides != (2 if name == "box_xyxy" else 1):
            return f"its table {name}.npy has {counted(sides, 'dimension')}"
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(("image_ids", "widths", "heights"), (images,))
    expected |= dict.fromkeys(("annotation_ids", "box_images", "box_concepts", "areas"), (boxes,))
    expected |= dict.fromkeys(("iscrowd", "difficult", "concept_boxes"), (boxes,))
    expected["box_xyxy"] = (boxes, 4)
    if tables.box_origins is not None:
        expected["box_origins"] = (boxes,)
    for offsets, values in _OFFSETS.items():
        expected[offsets] = ((concepts if offsets == "concept_box_offsets" else images) + 1,)
        ends = getattr(tables, offsets)[-1:].tolist()
        if ends != [len(getattr(tables, values))]:
            return f"its table {offsets}.npy does not fit {values}.npy"
    for name, shape in expected.items():
        found = getattr(tables, name).shape
        if found != shape:
            return f"its table {name}.npy has shape {found}, not {shape}"
    return ""


def _wrong_rows(tables: Tables, images: int, boxes: int, concepts: int) -> str:
    """Return the array that names a row which does not exist, or whose order is broken."""
    for name in _OFFSETS:
        offsets = np.asarray(getattr(tables, name))
        falls = np.less_equal if name == "file_name_offsets" else np.less  # no image is without a name
        if offsets[0] != 0 or falls(offsets[1:], offsets[:-1]).any():  # differences could overflow
            return f"its table {name}.npy is not ascending"
    if (tables.image_ids[1:] <= tables.image_ids[:-1]).any():
        return "its table image_ids.npy is not ascending"
    for name in ("widths", "heights"):
        if (getattr(tables, name) <= 0).any():
            return f"its table {name}.npy holds a side that is not positive"
    for name, rows in {
        "box_images": images,
        "box_concepts": concepts,
        "neg_rows": concepts,
        "not_exhaustive_rows": concepts,
        "concept_boxes": boxes,
    }.items():
        values = getattr(tables, name)
        if len(values) and not 0 <= values.min() <= values.max() < rows:
            return f"its table {name}.npy names rows that are not there"
    return ""


def _wrong_file_name(tables: Tables) -> str:
    """Return the file name that leaves the images folder, or cannot be read.

    Only names with suspicious bytes are checked one by one, so that millions of names take milliseconds.
    """
    blob, offsets = np.asarray(tables.file_name_bytes), np.asarray(tables.file_name_offsets)
    begins = offsets[:-1]
    try:
        blob.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        return "its table file_name_bytes.npy is not UTF-8"
    if ((blob[begins] & 0xC0) == 0x80).any():
        return "its table file_name_offsets.npy splits a character"
    for image in _suspicious(blob, offsets).tolist():
        name = tables.file_name_bytes[offsets[image] : offsets[image + 1]].tobytes()
        text = name.decode("utf-8", "replace")
        try:
            check_inside(text, "")
        except UserError:
            return f"the file name {text!r} of image {tables.image_ids[image]} leaves the images folder"
    return ""


def _suspicious(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the images whose names begin like an absolute path, or hold `..` or a zero byte."""
    begins = offsets[:-1]
    second = blob[np.minimum(begins + 1, len(blob) - 1)] if len(blob) else blob
    found = [np.flatnonzero(np.isin(blob[begins], [ord("/"), ord("\\")]) | (second == ord(":")))]
    for at in (np.flatnonzero((blob[:-1] == ord(".")) & (blob[1:] == ord("."))), np.flatnonzero(blob == 0)):
        found.append(np.searchsorted(offsets, at, "right") - 1)
    images: NDArray[np.int64] = np.unique(np.concatenate(found))
    return images
