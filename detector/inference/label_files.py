"""Predictions as files of labels: a COCO data set, YOLO, Pascal VOC, CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.text import escape
from cckt.detector.inference.photo_sources import name_of
from cckt.detector.inference.prediction import Prediction

DESCRIPTION = "Detections of cckt predict"
"""Mark of our COCO files, in `info.description`."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that an XML file cannot hold, whichever way they are escaped."""


def readable(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the predictions of readable images; an empty label for others would mean: no objects."""
    return [one for one in predictions if not one.fault]


def photo_names(predictions: Sequence[Prediction]) -> tuple[Path, list[str]]:
    """Return the deepest folder that holds all images, and the name of each image in it, with "/"."""
    paths = [Path(os.path.abspath(one.source)) for one in predictions if one.source]
    root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    known = iter(paths)
    return root, [next(known).relative_to(root).as_posix() if one.source else "" for one in predictions]


def write_coco(
    predictions: Sequence[Prediction],
    path: Path,
    image_ids: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """Write a COCO data set: images, annotations with scores, and all categories of the vocabulary.

    image_ids, names: id and file name of each image; None numbers the images from 1 and names them relative
    to the deepest folder that holds all (`info.images`). Unreadable images are left out. Annotation tools
    import the file, `cckt data index` reads it with that folder, and `cckt eval --detections` scores it.
    """
    ids = range(1, len(predictions) + 1) if image_ids is None else image_ids
    root, found = photo_names(predictions) if names is None else _folder_of(predictions, names)
    images, annotations, numbers = [], [], count(1)
    for one, image, name in zip(predictions, ids, found, strict=True):
        if one.fault:
            continue
        width, height = one.size
        images.append({"id": int(image), "file_name": name, "width": int(width), "height": int(height)})
        for record in _records(one, int(image)):
            area = record["bbox"][2] * record["bbox"][3]
            annotations.append(
                {"id": next(numbers), **record, "area": area, "iscrowd": 0, "segmentation": []}
            )
    concepts = predictions[0].vocabulary if predictions else ()
    whole = {
        "info": {"description": DESCRIPTION, "images": str(root)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": one.category_id, "name": one.name, "supercategory": "", "split": one.split}
            for one in concepts
        ],
    }
    return write_text(path, json.dumps(whole, separators=(",", ":")))


def _folder_of(predictions: Sequence[Prediction], names: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """Return the folder in which all photos have these names; without one, as `photo_names`."""
    folders = set()
    for one, name in zip(predictions, names, strict=True):
        path, parts = Path(os.path.abspath(one.source)), Path(name).parts
        if one.source and path.parts[-len(parts) :] == parts:
            folders.add(path.parents[len(parts) - 1])
        elif one.source:
            return photo_names(predictions)
    return (folders.pop(), names) if len(folders) == 1 else photo_names(predictions)


def write_coco_results(
    predictions: Sequence[Prediction], path: Path, image_ids: Sequence[int] | None = None
) -> Path:
    """Write a COCO results file, a list of detections. image_ids: as for `write_coco`."""
    ids = range(1, len(predictions) + 1) if image_ids is None else image_ids
    records = [
        record for image, one in zip(ids, predictions, strict=True) for record in _records(one, int(image))
    ]
    return write_text(path, json.dumps(records, separators=(",", ":")))


def _records(one: Prediction, image: int) -> list[dict[str, Any]]:
    columns = zip(
        one.boxes_xyxy.astype(float).tolist(), one.scores.astype(float).tolist(), one.concepts, strict=True
    )
    return [
        {
            "image_id": image,
            "category_id": int(one.vocabulary[int(row)].category_id),
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        for (left, top, right, bottom), score, row in columns
    ]


def label_names(sources: Sequence[str], format: str = "yolo") -> list[str]:
    """Return the names of label files without their suffix, one per image or video frame.

    Raises UserError for two images with one name, and for an image without a name.
    """
    names = [name_of(source) for source in sources]
    counts = Counter(names)
    twice = next((name for name in names if not name or counts[name] > 1), None)
    if twice is not None:
        raise UserError(
            f"--format {format} writes one file per photo name, and found "
            f"{twice or 'a photo without a name'!r} more than once, expected different names; predict such "
            "photos into different folders, or use --format coco."
        )
    return names


def write_yolo(predictions: Sequence[Prediction], folder: Path, scores: bool = False) -> list[Path]:
    """Write one text file per readable image, and classes.txt next to the folder.

    A line is `row cx cy w h`, with the box in fractions of the image's sides, and the score as a sixth
    column with `scores`, which trainers refuse; row k is line k of classes.txt. Files have the names of their
    images. Raises UserError as `label_names` does.
    """
    good = readable(predictions)
    stems = label_names([one.source for one in good])
    paths = []
    for stem, one in zip(stems, good, strict=True):
        sides = np.maximum(np.array([*one.size, *one.size], np.float64), 1)
        boxes = one.boxes_xyxy / sides
        centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        lines = [
            f"{row} {c[0]:.6f} {c[1]:.6f} {s[0]:.6f} {s[1]:.6f}{f' {score:.6f}' if scores else ''}\n"
            for row, c, s, score in zip(one.concepts, centre, side, one.scores, strict=True)
        ]
        paths.append(write_text(folder / f"{stem}.txt", "".join(lines)))
    names = predictions[0].vocabulary.names if predictions else []
    lines = [" ".join(name.splitlines()) + "\n" for name in names]  # a line each, whatever a name holds
    return [*paths, write_text(folder.with_name("classes.txt"), "".join(lines))]


def write_yolo_card(predictions: Sequence[Prediction], path: Path) -> Path:
    """Write data.yaml of a YOLO data set whose photos are in `images` and labels in `labels`."""
    names = predictions[0].vocabulary.names if predictions else []
    card = {"train": "images", "val": "images", "nc": len(names), "names": dict(enumerate(names))}
    text = f"# {DESCRIPTION}\n" + yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
    return write_text(path, text)


def write_voc(predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write one Pascal VOC XML file per readable image.

    Corners are whole pixels counted from 1, both inside the box. Each object has its score. Raises UserError
    as `label_names` does.
    """
    good = readable(predictions)
    stems = label_names([one.source for one in good], "voc")
    paths = []
    for stem, one in zip(stems, good, strict=True):
        root = ElementTree.Element("annotation")
        source = Path(one.source)
        _add(root, "folder", source.parent.name)
        _add(root, "filename", source.name)
        _add(ElementTree.SubElement(root, "source"), "annotation", DESCRIPTION)
        size = ElementTree.SubElement(root, "size")
        for name, value in (("width", one.size[0]), ("height", one.size[1]), ("depth", 3)):
            _add(size, name, value)
        for concept, score, box in zip(one.names, one.scores, one.boxes_xyxy, strict=True):
            item = ElementTree.SubElement(root, "object")
            for key, text in (("name", concept), ("pose", "Unspecified"), ("truncated", "0")):
                _add(item, key, text)
            _add(item, "difficult", 0)
            _add(item, "score", f"{score:.6f}")
            low = np.clip(np.floor(box[:2]) + 1, 1, np.maximum(one.size, 1)).astype(int)
            high = np.clip(np.ceil(box[2:]), low, np.maximum(one.size, 1)).astype(int)
            corners = ElementTree.SubElement(item, "bndbox")
            for name, edge in zip(("xmin", "ymin", "xmax", "ymax"), (*low, *high), strict=True):
                _add(corners, name, edge)
        ElementTree.indent(root)
        paths.append(
            write_text(folder / f"{stem}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")
        )
    return paths


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    """Add an element with a text; characters that XML cannot hold are shown as \\x1b and so on."""
    ElementTree.SubElement(parent, name).text = escape(str(value), _NOT_XML)


def write_csv(predictions: Sequence[Prediction], path: Path) -> Path:
    """Write one line per detection: photo, concept, category_id, novel (0 or 1), score, box edges (px).

    Photos and concepts that begin like a formula of a spreadsheet (= + - @) get an apostrophe in front.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["photo", "concept", "category_id", "novel", "score", "left", "top", "right", "bottom"])
    for one in predictions:
        for name, row, novel, score, box in zip(
            one.names, one.concepts, one.novel, one.scores, one.boxes_xyxy.tolist(), strict=True
        ):
            category = one.vocabulary[int(row)].category_id
            edges = [f"{value:.2f}" for value in box]
            table.writerow([_cell(one.source), _cell(name), category, int(novel), f"{score:.6f}", *edges])
    return write_text(path, text.getvalue())


def _cell(text: str) -> str:
    """Return a text that spreadsheets show and never compute."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def write_text(path: Path, text: str) -> Path:
    """Write a file atomically, in a folder that is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode(errors="backslashreplace"))
    return path
