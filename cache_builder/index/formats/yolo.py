"""Read a YOLO folder: data.yaml, and one text file of labels per image.

A line of a label file is `class x y width height`: the number of the class, then the centre and size of the
box as shares of the image. A line with the class and at least three corners is a polygon (YOLO-seg); its box
is taken. In labels of poses (`kpt_shape`) keypoints follow the box; they are not read. Boxes refer to the
photo as its EXIF orientation turns it, as the trainers of this format read it.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.errors import UserError, brief, counted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.base.untrusted.regular_files import read_regular, read_regular_text
from cckt.cache_builder.index.formats import BOX_DTYPE, Annotations
from cckt.cache_builder.index.formats.image_folder import list_images, measure
from cckt.cache_builder.index.formats.repairs import Repairs
from cckt.cache_builder.index.formats.yolo_card import class_names, keypoint_values, read_card
from cckt.cache_builder.vocabulary import Concept

MARGIN = 0.01
"""Shares may leave 0 to 1 by this much: exports round."""

Row = tuple[int, float, float, float, float]
"""Class, then left, top, width and height as shares of the image."""


def yolo_root(path: Path) -> Path:
    """Return the folder that the paths of a data.yaml start from."""
    return _root(path, read_card(path))


def read_yolo(path: Path, progress: Progress, repairs: Repairs, subset: str = "train") -> Annotations:
    """Read one subset of a YOLO folder.

    path: its data.yaml. subset: "train", "val" or "test", as data.yaml names it. Category ids are the numbers
    of the classes, and images are numbered by ascending name. Raises UserError for a broken data.yaml or
    label file, a class that data.yaml does not name, lines with six columns, and shares outside 0 to 1.
    """
    card = read_card(path)
    names = class_names(card, path)
    root = _root(path, card)
    files = _image_files(card, subset, root, path)
    hashed = hashlib.sha256(read_regular(path))
    keypoints = keypoint_values(card, path)
    found: list[tuple[int, Row]] = []
    polygons, unlabelled, label_files = 0, 0, set()
    for number, name in enumerate(files, 1):
        label = _label_file(root, name)
        if label is None:
            unlabelled += 1
            continue
        if label in label_files:
            raise UserError(
                f"{label} belongs to two photos (one is {name}), expected one; rename one of them"
            )
        label_files.add(label)
        content = read_regular(label)
        hashed.update(name.encode() + b"\0" + content)
        rows, from_polygons = _rows(label, content, names, keypoints)
        polygons += from_polygons
        found += [(number, row) for row in rows]
    if unlabelled == len(files):
        raise UserError(
            f"{path}: none of the {counted(len(files), 'photo')} of {subset!r} has a label file (the first "
            "would be "
            f"{_label_places(root, files[0])[0]}), expected one per photo; check the folder of the labels"
        )
    images = measure(root, files, progress, path)
    boxes = np.zeros(len(found), BOX_DTYPE)
    boxes["id"] = np.arange(1, len(found) + 1)
    boxes["area"] = math.nan
    for at, (number, (category, x, y, width, height)) in enumerate(found):
        w, h = int(images["width"][number - 1]), int(images["height"][number - 1])
        boxes["image_id"][at], boxes["category_id"][at] = number, category
        boxes["xywh"][at] = (x * w, y * h, width * w, height * h)
    from_folder = "" if card.get(subset) else f", from {Path(files[0]).parent} (it names no folder)"
    notes = [f"{path.name}: the photos of {subset!r} were read{from_folder}"]
    if polygons:
        notes.append(f"{counted(polygons, 'polygon was', 'polygons were')} read: their boxes are taken")
    if keypoints:
        notes.append("the labels are poses: their boxes are read, their keypoints are not")
    if strays := _strays(label_files):
        are = counted(len(strays), "label file has", "label files have")
        notes.append(
            f"{are} no photo in {subset!r} (the first is {strays[0]}): check that all photos are there"
        )
    if unlabelled:
        missing = counted(unlabelled, "photo has", "photos have")
        notes.append(f"{missing} no label file: they count as photos without objects")
    return Annotations(
        path,
        "sha256:" + hashed.hexdigest(),
        images,
        files,
        boxes,
        [Concept(number, name, split="other") for number, name in sorted(names.items())],
        image_counts=[None] * len(names),
        repairs=repairs,
        notes=notes,
        turned=True,
    )


def _strays(labels: set[Path]) -> list[str]:
    """Return the other files of labels in the folders of `labels`, without lists of classes or photos."""
    folders = {label.parent for label in labels if "labels" in label.parts}
    others = {path for folder in folders for path in folder.glob("*.txt")} - labels
    return sorted(path.name for path in others if path.name != "classes.txt")


def _root(path: Path, card: dict[str, Any]) -> Path:
    """Return the folder of the data set: that of data.yaml, or its entry 'path' where that exists."""
    entry = card.get("path")
    if isinstance(entry, str) and (path.parent / entry).is_dir():
        return (path.parent / entry).resolve()
    return path.parent.resolve()


def _image_files(card: dict[str, Any], subset: str, root: Path, path: Path) -> list[str]:
    """Return the ascending names of the images of a subset, relative to the root."""
    known = [key for key in ("train", "val", "test") if card.get(key)]
    entry = card.get(subset) or (None if known else _usual_folder(root, subset))
    if not entry:
        raise UserError(
            f"{path} has no entry {subset!r}, expected a folder there (it has {', '.join(known) or 'none'}); "
            "name another one with --subset"
        )
    names: list[str] = []
    for one in entry if isinstance(entry, list) else [entry]:
        place = None if isinstance(one, dict | list | set) else _inside(root, str(one))
        if place is None:
            raise UserError(
                f"{path}: the entry {subset!r} is {brief(one)}, which is no folder or list of photos inside "
                f"{root}; correct it"
            )
        if (root / place).is_dir():
            names += list_images(root, place)
            continue
        for line in _lines(root / place):
            if line.strip():
                image = _inside(root, line.strip())
                if image is None:
                    raise UserError(f"{root / place} lists {line.strip()!r}, which is no file inside {root}")
                names.append(image)
    if not names:
        raise UserError(f"{path}: {subset!r} holds no images, expected files such as a.jpg in {brief(entry)}")
    return sorted(set(names))


def _lines(path: Path) -> list[str]:
    """Return the lines of a list of photos."""
    try:
        return read_regular_text(path).splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text, expected the name of a photo on each line; correct it") from None


def _usual_folder(root: Path, subset: str) -> str | None:
    """Return the folder of the images of a data.yaml without folders, as supervision writes it."""
    places = (f"images/{subset}", f"{subset}/images", *(["images"] if subset == "train" else []))
    return next((place for place in places if (root / place).is_dir()), None)


def _inside(root: Path, entry: str) -> str | None:
    """Return a path of data.yaml relative to the root; None where it does not exist or leaves the root.

    Exports of some tools begin with `../`, though the folder is at the root.
    """
    for candidate in (entry, entry.removeprefix("../")) if "\0" not in entry else ():
        place = (root / candidate).resolve()
        if place.exists() and place.is_relative_to(root):
            # As it is named, not where a link points to: the labels have its name.
            named = Path(os.path.normpath(root / candidate))
            return (named if named.is_relative_to(root) else place).relative_to(root).as_posix()
    return None


def _label_places(root: Path, name: str) -> list[Path]:
    """Return where the labels of an image may be: in `labels` for `images`, or next to the image."""
    text = Path(name).with_suffix(".txt")
    parts = list(text.parts)
    places = []
    if "images" in parts[:-1]:
        at = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.append(root.joinpath(*parts[:at], "labels", *parts[at + 1 :]))
    return [*places, root / text]


def _label_file(root: Path, name: str) -> Path | None:
    return next((place for place in _label_places(root, name) if place.is_file()), None)


def _rows(label: Path, content: bytes, names: dict[int, str], keypoints: int) -> tuple[list[Row], int]:
    """Return the boxes of a label file, and how many of them come from polygons.

    keypoints: numbers after each box, of labels of poses; 0 for others.
    """
    rows, polygons = [], 0
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{label}, line {number}"
        try:
            values = [float(word) for word in words]
        except ValueError:
            raise UserError(f"{where}: found {brief(line)}, expected numbers") from None
        category = int(values[0]) if math.isfinite(values[0]) else -1
        if category != values[0] or category not in names:
            raise UserError(
                f"{where}: found the class {words[0]}, expected one of the {len(names)} numbers that "
                f"data.yaml names ({min(names)} to {max(names)}); correct the label or data.yaml"
            )
        shares = values[1:]
        if keypoints:
            if len(shares) != 4 + keypoints:
                raise UserError(
                    f"{where}: found {counted(len(words), 'column')}, expected class, x, y, width, height "
                    f"and {keypoints} numbers of keypoints ('kpt_shape' of data.yaml); correct one of them"
                )
            shares = shares[:4]
        if not all(-MARGIN <= value <= 1 + MARGIN for value in shares):
            raise UserError(
                f"{where}: found {brief(line)}, expected shares of the photo from 0 to 1; divide pixels by "
                "its width and height"
            )
        if len(shares) == 4:
            x, y, width, height = shares
            rows.append((category, x - width / 2, y - height / 2, width, height))
        elif len(shares) >= 6 and len(shares) % 2 == 0:
            polygons += 1
            left, top = min(shares[0::2]), min(shares[1::2])
            rows.append((category, left, top, max(shares[0::2]) - left, max(shares[1::2]) - top))
        else:
            scores = ", as predictions with scores have" if len(words) == 6 else ""
            raise UserError(
                f"{where}: found {counted(len(words), 'column')}{scores}, expected class, x, y, width, "
                "height, or a "
                "class and the corners of a polygon"
            )
    return rows, polygons
