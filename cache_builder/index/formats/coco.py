"""From a COCO-format JSON to plain arrays, each record checked as it passes."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index.formats.json_stream import JsonLists
from cckt.cache_builder.index.names import check_inside, name_from_url
from cckt.cache_builder.vocabulary import Concept

KEYS = ("images", "annotations", "categories")

# Packed little-endian rows: one C call a record, no Python object kept.
_IMAGE = struct.Struct("<qii")
_BOX = struct.Struct("<qqqdddddbb")
_IMAGE_DTYPE = np.dtype([("id", "<i8"), ("width", "<i4"), ("height", "<i4")])
_BOX_DTYPE = np.dtype(
    {
        "names": ["id", "image_id", "category_id", "xywh", "area", "iscrowd", "difficult"],
        "formats": ["<i8", "<i8", "<i8", ("<f8", 4), "<f8", "i1", "i1"],
    }
)


@dataclass
class Source:
    """An annotation file as arrays, in the file's order, every id known and unique.

    images: structured (I,) id, width, height; boxes: structured (M,) id, image_id, category_id, xywh (pixels,
    may be NaN or outside), area (NaN where the file has none), iscrowd, difficult.
    concepts: C, by ascending category id, their split not yet known; image_counts: C, LVIS's `image_count`.
    marks: of LVIS's "neg_category_ids" and "not_exhaustive_category_ids", (image number, category id) pairs.
    """

    path: Path
    digest: str = ""
    images: NDArray[np.void] = field(default_factory=lambda: np.empty(0, _IMAGE_DTYPE))
    file_names: list[str] = field(default_factory=list)
    boxes: NDArray[np.void] = field(default_factory=lambda: np.empty(0, _BOX_DTYPE))
    concepts: list[Concept] = field(default_factory=list)
    image_counts: list[int | None] = field(default_factory=list)
    marks: dict[str, NDArray[np.int64]] = field(default_factory=dict)


def read_source(path: Path, progress: Progress) -> Source:
    """Read and check an annotation file.

    Raises UserError for what is no COCO-format detection file: broken JSON, missing keys, missing or wrongly
    typed fields, duplicate ids, annotations of an unknown image or category, a file name that climbs out.
    """
    lists = JsonLists(path, KEYS, progress)
    images, boxes = bytearray(), bytearray()
    marks = {key: array("q") for key in ("neg_category_ids", "not_exhaustive_category_ids")}
    source = Source(path)
    for key, record in lists.records():
        if not isinstance(record, dict):
            raise UserError(f"{path} is not COCO: {key!r} holds {_short(record)}; expected objects there")
        if key == "annotations":
            try:
                x, y, w, h = record["bbox"]
                boxes += _BOX.pack(
                    record["id"], record["image_id"], record["category_id"], x, y, w, h,
                    record.get("area", math.nan), record.get("iscrowd", 0),
                    1 if record.get("difficult") or record.get("ignore") else 0,
                )  # fmt: skip
            except (KeyError, TypeError, ValueError, OverflowError, struct.error):
                boxes += _BOX.pack(*_box_fields(record, path))
        elif key == "images":
            for name, pairs in marks.items():
                listed = record.get(name) or []
                if not isinstance(listed, list):
                    raise UserError(f"{path}: {name} of image {record.get('id')} is no list of category ids")
                for category_id in listed:
                    pairs.extend((len(source.file_names), _integer(category_id, f"an entry of {name}", path)))
            source.file_names.append(_file_name(record, path))
            images += _IMAGE.pack(*_image_fields(record, path))
        else:
            _add_category(record, source)
    missing = [key for key in KEYS if key not in lists.found]
    if missing:
        found = f"it has {', '.join(map(repr, lists.found[:8]))}" if lists.found else "it is empty"
        raise UserError(
            f"{path} is not COCO: the key {' and '.join(map(repr, missing))} is missing ({found}); "
            "expected 'images', 'annotations' and 'categories'"
        )
    source.digest = lists.digest
    for key, empty in (("images", not images), ("categories", not source.concepts)):
        if empty:
            raise UserError(f"{path} has an empty list of {key}: expected at least one")
    source.images = np.frombuffer(images, _IMAGE_DTYPE)
    source.boxes = np.frombuffer(boxes, _BOX_DTYPE)
    source.marks = {name: np.array(pairs, np.int64).reshape(-1, 2) for name, pairs in marks.items()}
    order = np.argsort([c.category_id for c in source.concepts], kind="stable")
    source.concepts = [source.concepts[k] for k in order]
    source.image_counts = [source.image_counts[k] for k in order]
    _check_ids(source)
    return source


def _check_ids(source: Source) -> None:
    category_ids = np.array([c.category_id for c in source.concepts], np.int64)
    image_ids = source.images["id"]
    for what, ids in (("image", image_ids), ("annotation", source.boxes["id"]), ("category", category_ids)):
        ordered = np.sort(ids)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise UserError(
                f"{source.path} has the {what} id {twice[0]} more than once "
                f"({len(np.unique(twice))} such ids): ids must be unique; renumber or remove the duplicates"
            )
    for what, wanted, known in (
        ("image", source.boxes["image_id"], image_ids),
        ("category", source.boxes["category_id"], category_ids),
    ):
        unknown = np.flatnonzero(~np.isin(wanted, known))
        if len(unknown):
            first = unknown[0]
            raise UserError(
                f"{source.path}: annotation {source.boxes['id'][first]} belongs to {what} {wanted[first]}, "
                f"which the file does not list ({len(unknown)} such annotations); "
                f"add the {what} or remove the annotations"
            )
    for name, pairs in source.marks.items():
        stray = pairs[~np.isin(pairs[:, 1], category_ids)]
        if len(stray):
            raise UserError(
                f"{source.path}: {name} of image {image_ids[stray[0, 0]]} has category {stray[0, 1]}, "
                "which the file does not list; use the file as LVIS publishes it"
            )


def _add_category(record: dict[str, Any], source: Source) -> None:
    path = source.path
    category_id = _integer(_field(record, "id", "a category", path), "the id of a category", path)
    name = _field(record, "name", f"category {category_id}", path)
    if not isinstance(name, str) or not name.strip() or not _encodable(name):
        raise UserError(f"{path}: category {category_id} has the name {_short(name)}; expected text")
    name = " ".join(name.split())
    synonyms = record.get("synonyms") or ()
    if not isinstance(synonyms, list | tuple) or not all(
        isinstance(s, str) and s and _encodable(s) for s in synonyms
    ):
        raise UserError(f"{path}: the synonyms of category {category_id} are no list of names")
    frequency = record.get("frequency") or ""
    if frequency not in ("", "r", "c", "f"):
        raise UserError(
            f"{path}: category {category_id} has frequency {_short(frequency)}; expected r, c or f"
        )
    others = tuple(dict.fromkeys(s for s in synonyms if s != name))
    source.concepts.append(Concept(category_id, name, others, "other", frequency))
    count = record.get("image_count")
    source.image_counts.append(None if count is None else _integer(count, f"image_count of {name!r}", path))


def _file_name(record: dict[str, Any], path: Path) -> str:
    name, url = record.get("file_name"), record.get("coco_url")
    if name is None and isinstance(url, str):
        name = name_from_url(url)
    image = _short(record.get("id"))
    if not isinstance(name, str):
        raise UserError(f"{path}: image {image} has neither 'file_name' nor 'coco_url'; add its file name")
    check_inside(name, path, image)
    return name


def _image_fields(record: dict[str, Any], path: Path) -> tuple[int, int, int]:
    image_id = _integer(_field(record, "id", "an image", path), "the id of an image", path)
    sides = []
    for key in ("width", "height"):
        side = _integer(_field(record, key, f"image {image_id}", path), f"{key} of image {image_id}", path)
        if not 0 < side < 2**31:
            raise UserError(f"{path}: image {image_id} has {key} {side}; expected the photo's size in pixels")
        sides.append(side)
    return image_id, sides[0], sides[1]


def _box_fields(record: dict[str, Any], path: Path) -> tuple[int | float, ...]:
    """The slow way: accept what a file may mean (whole floats, null for NaN), name what it cannot."""
    ident = _integer(_field(record, "id", "an annotation", path), "the id of an annotation", path)
    who = f"annotation {ident}"
    image_id = _integer(_field(record, "image_id", who, path), f"image_id of {who}", path)
    category_id = _integer(_field(record, "category_id", who, path), f"category_id of {who}", path)
    box = _field(record, "bbox", who, path)
    if not isinstance(box, list) or len(box) != 4:
        raise UserError(f"{path}: {who} has bbox {_short(box)}; expected [x, y, width, height] in pixels")
    numbers = [_number(value, f"bbox of {who}", path) for value in box]
    area = _number(record.get("area"), f"area of {who}", path)
    crowd = _integer(record.get("iscrowd") or 0, f"iscrowd of {who}", path)
    difficult = 1 if record.get("difficult") or record.get("ignore") else 0
    return (ident, image_id, category_id, *numbers, area, int(crowd != 0), difficult)


def _field(record: dict[str, Any], key: str, who: str, path: Path) -> Any:
    if key not in record:
        raise UserError(
            f"{path} is not a COCO detection file: {who} has no {key!r}; "
            f"it has {_short(list(record))}, expected {key!r} among them"
        )
    return record[key]


def _integer(value: Any, what: str, path: Path) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise UserError(f"{path}: {what} is {_short(value)}; expected an integer of at most 64 bits")
    return value


def _number(value: Any, what: str, path: Path) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path}: {what} holds {_short(value)}; expected numbers")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _encodable(text: str) -> bool:
    """False for the lone surrogates that JSON escapes can spell and no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
