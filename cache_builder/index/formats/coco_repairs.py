"""Repair the records of a COCO-format file where they can only mean one thing (--lenient).

The file is read twice: first its ids, so that references can be repaired whatever the order of its lists,
then its records.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index.formats.json_stream import JsonLists
from cckt.cache_builder.index.formats.repairs import Repairs, as_integer, as_number
from cckt.cache_builder.index.formats.segmentation import box_of

_REFERENCES = {"image_id": "image_ids", "category_id": "category_ids"}


class CocoRepairs:
    """Repairs of the records of one file. Creating one reads the ids of the file.

    Records that cannot be repaired pass as they are: the reader refuses them.
    """

    def __init__(self, path: Path, keys: tuple[str, ...], repairs: Repairs, progress: Progress) -> None:
        self.repairs = repairs
        self._annotations = 0
        """Annotations that were passed."""
        listed: dict[str, list[Any]] = {"images": [], "categories": []}
        self._sizes: dict[str, tuple[object, object]] = {}
        """Id of an image, as text -> its height and width."""
        ids, valid = array("q"), True
        for key, record in JsonLists(path, keys, progress).records():
            if not isinstance(record, dict):
                continue
            if key == "annotations":
                ident = as_integer(record.get("id"))
                valid = valid and ident is not None
                ids.append(0 if ident is None else ident)
            else:
                listed[key].append(record.get("id"))
                if key == "images":
                    sides = as_integer(record.get("height")), as_integer(record.get("width"))
                    self._sizes[_id_text(record.get("id"))] = sides
        self._number_annotations = not valid or len(set(ids)) < len(ids)
        self._numbers = {
            "image_ids": _numbering(listed["images"]),
            "category_ids": _numbering(listed["categories"]),
        }

    def records(self, lists: JsonLists) -> Iterator[tuple[str, Any]]:
        """Yield the (key, record) of `lists` with repairs."""
        for key, record in lists.records():
            if isinstance(record, dict):
                record = dict(record)
                if key == "annotations":
                    self._annotation(record)
                elif key == "images":
                    self._image(record)
                else:
                    self._identify(
                        record, "id", "category_ids", f"category {record.get('name')!r}", note=True
                    )
            yield key, record

    def _annotation(self, record: dict[str, Any]) -> None:
        self._annotations += 1
        who = f"annotation {self._annotations} of the file"
        if self._number_annotations:
            if record.get("id") != self._annotations:
                self.repairs.add("annotation_ids", who, record.get("id"), self._annotations)
            record["id"] = self._annotations
        else:
            self._integer(record, "id", who)
        size = self._sizes.get(_id_text(record.get("image_id")), (None, None))
        for key, kind in _REFERENCES.items():
            self._identify(record, key, kind, who)
        for key in ("area", "iscrowd"):
            self._number(record, key, who)
        box = record.get("bbox")
        if not box:
            taken = box_of(record.get("segmentation"), size)
            if taken is not None:
                self.repairs.add("boxes", who, box, taken)
                record["bbox"] = taken
        elif isinstance(box, list):
            numbers = [as_number(value) for value in box]
            if any(isinstance(value, str) for value in box) and not any(isinstance(n, str) for n in numbers):
                self.repairs.add("numbers", f"bbox of {who}", box, numbers)
                record["bbox"] = numbers

    def _image(self, record: dict[str, Any]) -> None:
        who = f"image {record.get('id')!r}"
        self._identify(record, "id", "image_ids", who, note=True)
        for key in ("width", "height"):
            self._number(record, key, who)
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            numbering = self._numbers["category_ids"]
            if numbering and isinstance(record.get(key), list):
                record[key] = [numbering.get(_id_text(value), value) for value in record[key]]
        name, images = record.get("file_name"), self.repairs.images
        if isinstance(name, str) and images is not None and not images.has(name):
            taken = images.find_one(name, f"the file name {name!r} of {who}")
            if taken is not None:
                self.repairs.add("file_names", who, name, taken)
                record["file_name"] = taken

    def _identify(self, record: dict[str, Any], key: str, kind: str, who: str, note: bool = False) -> None:
        """Replace an id or a reference by its number. note: add it to the list of repairs."""
        numbering = self._numbers[kind]
        if numbering is None:
            self._integer(record, key, who)
            return
        number = numbering.get(_id_text(record.get(key)))
        if number is not None:
            if note:
                self.repairs.add(kind, who, record[key], number)
            record[key] = number

    def _integer(self, record: dict[str, Any], key: str, who: str) -> None:
        value = record.get(key)
        number = as_integer(value)
        if isinstance(value, str) and number is not None:
            self.repairs.add("numbers", f"{key} of {who}", value, number)
            record[key] = number

    def _number(self, record: dict[str, Any], key: str, who: str) -> None:
        value = record.get(key)
        number = as_number(value)
        if isinstance(value, str) and not isinstance(number, str):
            self.repairs.add("numbers", f"{key} of {who}", value, number)
            record[key] = number


def _numbering(ids: list[Any]) -> dict[str, int] | None:
    """Return id -> 1, 2, ... in file order; None where all ids are integers or one is missing."""
    if None in ids or all(as_integer(one) is not None for one in ids):
        return None
    numbering: dict[str, int] = {}
    for one in ids:
        numbering.setdefault(_id_text(one), len(numbering) + 1)
    return numbering


def _id_text(value: object) -> str:
    """Return the form in which ids and references to them are compared: 7, 7.0 and "7" are one."""
    number = as_integer(value)
    return str(value) if number is None else str(number)
