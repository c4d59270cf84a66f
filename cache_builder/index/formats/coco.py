"""Read a COCO-format JSON into `Annotations`, checking each record as it passes.

COCO, Objects365 and custom files of the format; LVIS too, with its `coco_url`, `frequency`, `image_count`,
`neg_category_ids` and `not_exhaustive_category_ids`.
"""

from __future__ import annotations

import math
import struct
from array import array
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import EXACT
from cckt.cache_builder.base.errors import UserError, brief, listed
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index.formats import BOX_DTYPE, IMAGE_DTYPE, Annotations
from cckt.cache_builder.index.formats.coco_repairs import CocoRepairs
from cckt.cache_builder.index.formats.json_stream import JsonLists
from cckt.cache_builder.index.formats.repairs import Repairs, as_flag, as_integer, as_number
from cckt.cache_builder.vocabulary import Concept

KEYS = ("images", "annotations", "categories")
MARKS = ("neg_category_ids", "not_exhaustive_category_ids")
"""Lists of category ids that LVIS attaches to an image."""

# Rows packed as IMAGE_DTYPE and BOX_DTYPE have them: one C call per record, no Python object is kept.
_IMAGE = struct.Struct("<qii")
_BOX = struct.Struct("<qqqdddddbb")
_PLAIN = {None: 0, 0: 0, 1: 1}
"""Marks that need no look; others are read by `_flag`."""


def read_coco(path: Path, progress: Progress, repairs: Repairs, unlabelled: bool = False) -> Annotations:
    """Read and check an annotation file; repair its records where `repairs` are enabled.

    unlabelled: accept a file without 'annotations', such as COCO's image_info files, or without categories.

    Raises UserError for a file that is no COCO-format detection file: broken JSON, missing keys, missing
    fields or fields of the wrong type, duplicate ids, annotations of an unknown image or category, a file
    name that leaves the images folder.
    """
    lists = JsonLists(path, KEYS, progress)
    images, boxes = bytearray(), bytearray()
    file_names: list[str] = []
    concepts: list[tuple[Concept, int | None]] = []
    parent_of: dict[str, Any] = {}
    marks = {key: array("q") for key in MARKS}
    records = (
        CocoRepairs(path, KEYS, repairs, progress).records(lists) if repairs.enabled else lists.records()
    )
    for key, record in records:
        if not isinstance(record, dict):
            raise UserError(f"{path} is not COCO: {key!r} holds {brief(record)}; expected objects there")
        if key == "annotations":
            try:
                x, y, w, h = record["bbox"]
                ident, image, category = record["id"], record["image_id"], record["category_id"]
                if type(ident) is bool or type(image) is bool or type(category) is bool:
                    raise TypeError("true and false would be packed as 1 and 0")
                boxes += _BOX.pack(
                    ident, image, category, x, y, w, h,
                    record.get("area", math.nan), record.get("iscrowd", 0),
                    _PLAIN[record.get("difficult")] | _PLAIN[record.get("ignore")],
                )  # fmt: skip
            except (KeyError, TypeError, ValueError, OverflowError, struct.error):
                boxes += _BOX.pack(*_box_fields(record, path, repairs))
        elif key == "images":
            for name, pairs in marks.items():
                marked = record.get(name) or []
                if not isinstance(marked, list):
                    raise UserError(
                        f"{path}: {name} of image {record.get('id')} is no list but {brief(marked)}; "
                        "expected a list of category ids"
                    )
                for category_id in marked:
                    pairs.extend((len(file_names), _integer(category_id, f"an entry of {name}", path)))
            file_names.append(_file_name(record, path))
            images += _IMAGE.pack(*_image_fields(record, path, repairs))
        else:
            concepts.append(_concept(record, path, repairs))
            parent_of[concepts[-1][0].name] = record.get("supercategory")
    missing = [key for key in KEYS if key not in lists.found]
    if unlabelled:
        if boxes:
            raise UserError(
                f"{path} has annotations, expected none with --unlabelled; leave out --unlabelled"
            )
        missing = [key for key in missing if key == "images"]
    if missing:
        found = f"it has {listed([repr(key) for key in lists.found], 8)}" if lists.found else "it is empty"
        raise UserError(
            f"{path} is not COCO: the key {' and '.join(map(repr, missing))} is missing ({found}); "
            "expected 'images', 'annotations' and 'categories'"
            + ("; add --unlabelled for an index without boxes" if missing == ["annotations"] else "")
        )
    for key, empty in (("images", not images), ("categories", not concepts and not unlabelled)):
        if empty:
            raise UserError(f"{path} has an empty list of {key}: expected at least one")
    concepts.sort(key=lambda pair: pair[0].category_id)
    packed = np.frombuffer(boxes, BOX_DTYPE)
    parents = {parent for name, parent in parent_of.items() if isinstance(parent, str) and parent != name}
    with_boxes = set(np.unique(packed["category_id"]).tolist())
    parent_ids = [
        concept.category_id
        for concept, _ in concepts
        if concept.name in parents and concept.category_id not in with_boxes
    ]
    if repairs.enabled and len(parent_ids) < len(concepts):
        marked = {category_id for pairs in marks.values() for category_id in pairs[1::2]}
        left_out = set(parent_ids) - marked
        for concept, _ in concepts:
            if concept.category_id in left_out:
                repairs.add("parents", f"category {concept.category_id}", concept.name, None)
        concepts = [pair for pair in concepts if pair[0].category_id not in left_out]
        parent_ids = [category_id for category_id in parent_ids if category_id not in left_out]
    pairs_of = {name: np.array(pairs, np.int64).reshape(-1, 2) for name, pairs in marks.items()}
    annotations = Annotations(
        path,
        lists.digest,
        np.frombuffer(images, IMAGE_DTYPE),
        file_names,
        packed,
        [concept for concept, _ in concepts],
        parent_ids,
        [count for _, count in concepts],
        negatives=pairs_of["neg_category_ids"],
        not_exhaustive=pairs_of["not_exhaustive_category_ids"],
        repairs=repairs,
    )
    _check_marks(annotations, pairs_of)
    return annotations


def _check_marks(annotations: Annotations, pairs_of: dict[str, NDArray[np.int64]]) -> None:
    known = [concept.category_id for concept in annotations.concepts]
    for name, pairs in pairs_of.items():
        unknown = pairs[~np.isin(pairs[:, 1], known)]
        if len(unknown):
            image_id = annotations.images["id"][unknown[0, 0]]
            raise UserError(
                f"{annotations.path}: {name} of image {image_id} has category {unknown[0, 1]}, "
                "which the file does not list; use the file as LVIS publishes it"
            )


def _concept(record: dict[str, Any], path: Path, repairs: Repairs) -> tuple[Concept, int | None]:
    """Return a category as a concept, and its `image_count`, None where the record has none."""
    hint = _id_hint(record, "id", repairs)
    category_id = _integer(_field(record, "id", "a category", path), "the id of a category", path, hint)
    name = _field(record, "name", f"category {category_id}", path)
    if not isinstance(name, str) or not name.strip() or not _encodable(name):
        raise UserError(f"{path}: category {category_id} has the name {brief(name)}; expected text")
    name = " ".join(name.split())
    synonyms = record.get("synonyms") or ()
    if not isinstance(synonyms, list | tuple) or not all(
        isinstance(s, str) and s and _encodable(s) for s in synonyms
    ):
        raise UserError(
            f"{path}: the synonyms of category {category_id} are no list of names but {brief(synonyms)}; "
            "expected a list of texts"
        )
    frequency = record.get("frequency") or ""
    if frequency not in ("", "r", "c", "f"):
        raise UserError(
            f"{path}: category {category_id} has frequency {brief(frequency)}; expected r, c or f"
        )
    others = tuple(dict.fromkeys(s for s in synonyms if s != name))
    count = record.get("image_count")
    images = None if count is None else _integer(count, f"image_count of {name!r}", path)
    return Concept(category_id, name, others, "other", frequency), images


def _file_name(record: dict[str, Any], path: Path) -> str:
    name, url = record.get("file_name"), record.get("coco_url")
    if name is None and isinstance(url, str):
        name = name_from_url(url)
    if not isinstance(name, str):
        raise UserError(
            f"{path}: image {brief(record.get('id'))} has neither 'file_name' nor 'coco_url'; "
            "add its file name"
        )
    return name


def name_from_url(url: str) -> str:
    """Return `folder/name` of an image's URL: LVIS v1 has only ".../train2017/000000391895.jpg"."""
    return "/".join(part for part in unquote(urlsplit(url).path).split("/")[-2:] if part)


def _image_fields(record: dict[str, Any], path: Path, repairs: Repairs) -> tuple[int, int, int]:
    hint = _id_hint(record, "id", repairs)
    image_id = _integer(_field(record, "id", "an image", path), "the id of an image", path, hint)
    sides = []
    for key in ("width", "height"):
        side = _field(record, key, f"image {image_id}", path)
        hint = "" if as_integer(side) is None else repairs.hint("reads it as a number")
        side = _integer(side, f"{key} of image {image_id}", path, hint)
        if not 0 < side < 2**31:
            raise UserError(f"{path}: image {image_id} has {key} {side}; expected the photo's size in pixels")
        sides.append(side)
    return image_id, sides[0], sides[1]


def _box_fields(record: dict[str, Any], path: Path, repairs: Repairs) -> tuple[int | float, ...]:
    """Read a box that the fast path cannot pack: accept whole floats and null, name any other fault."""
    number_ids = repairs.hint("numbers annotations by file order")
    ident = _field(record, "id", "an annotation", path, number_ids)
    ident = _integer(ident, "the id of an annotation", path, number_ids)
    who = f"annotation {ident}"
    image_id, category_id = (
        _integer(_field(record, key, who, path), f"{key} of {who}", path, _id_hint(record, key, repairs))
        for key in ("image_id", "category_id")
    )
    segments = repairs.hint("takes the box of its segmentation") if record.get("segmentation") else ""
    box = _field(record, "bbox", who, path, segments)
    if not isinstance(box, list) or len(box) != 4:
        raise UserError(
            f"{path}: {who} has bbox {brief(box)}; expected [x, y, width, height] in pixels"
            + ("" if box else segments)
        )
    numbers = [_number(value, f"bbox of {who}", path, repairs) for value in box]
    area = _number(record.get("area"), f"area of {who}", path, repairs)
    crowd = _integer(record.get("iscrowd") or 0, f"iscrowd of {who}", path)
    marks = [_flag(record, key, who, path) for key in ("difficult", "ignore")]
    return (ident, image_id, category_id, *numbers, area, int(crowd != 0), max(marks))


def _flag(record: dict[str, Any], key: str, who: str, path: Path) -> int:
    """Return the mark `key` of an annotation, 0 or 1."""
    value = as_flag(record.get(key))
    if value is None:
        raise UserError(f"{path}: {key} of {who} is {brief(record[key])}; expected 0 or 1")
    return value


def _id_hint(record: dict[str, Any], key: str, repairs: Repairs) -> str:
    """Return what --lenient does with an id that is a text."""
    return repairs.hint("reads and numbers such ids") if isinstance(record.get(key), str) else ""


def _field(record: dict[str, Any], key: str, who: str, path: Path, hint: str = "") -> Any:
    if key not in record:
        raise UserError(
            f"{path} is not a COCO detection file: {who} has no {key!r}; "
            f"it has {brief(list(record))}, expected {key!r} among them{hint}"
        )
    return record[key]


def _integer(value: Any, name: str, path: Path, hint: str = "") -> int:
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise UserError(f"{path}: {name} is {brief(value)}; expected an integer of at most 64 bits{hint}")
    return value


def _number(value: Any, name: str, path: Path, repairs: Repairs) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = repairs.hint("reads it as a number") if not isinstance(as_number(value), str) else ""
        raise UserError(f"{path}: {name} holds {brief(value)}; expected numbers{hint}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _encodable(text: str) -> bool:
    """Return whether UTF-8 can encode `text`. JSON escapes can spell lone surrogates, which it cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
