"""Read a YOLO folder: data.yaml, and one text file of labels per image.

A line of a label file is `class x y width height`: the number of the class, then the centre and size of the
box as shares of the image. A line with the class and at least three corners is a polygon (YOLO-seg); its box
is taken. Where data.yaml has a `kpt_shape`, a line is a box and its keypoints (YOLO-pose), which are not
read. Boxes refer to the photo as its EXIF orientation turns it, as the trainers of this format read it.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from cckt.cache_builder.base.errors import UserError, brief, counted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.index.formats import BOX_DTYPE, Annotations
from cckt.cache_builder.index.formats.image_folder import is_image, measure
from cckt.cache_builder.index.formats.repairs import Repairs
from cckt.cache_builder.index.formats.yolo_card import (
    class_names,
    image_files,
    keypoint_shape,
    list_files,
    read_card,
    root_of,
)
from cckt.cache_builder.vocabulary import Concept

MARGIN = 0.01
"""Shares may leave 0 to 1 by this much: exports round."""

CLASSES = "classes.txt"
"""The names of the classes, which some tools write next to the labels."""

Row = tuple[int, float, float, float, float]
"""Class, then left, top, width and height as shares of the image."""


def yolo_root(path: Path) -> Path:
    """Return the folder that the paths of a data.yaml start from."""
    return root_of(path, read_card(path))


def read_yolo(path: Path, progress: Progress, repairs: Repairs, subset: str = "train") -> Annotations:
    """Read one subset of a YOLO folder.

    path: its data.yaml. subset: "train", "val" or "test", as data.yaml names it. Category ids are the numbers
    of the classes, and images are numbered by ascending name. Raises UserError for a broken data.yaml or
    label file, a class that data.yaml does not name, a wrong number of columns, and shares outside 0 to 1.
    """
    card = read_card(path)
    names, keypoints = class_names(card, path), keypoint_shape(card, path)
    root = root_of(path, card)
    files = image_files(card, subset, root, path)
    hashed = hashlib.sha256(read_regular(path))
    found: list[tuple[int, Row]] = []
    polygons, unlabelled = 0, 0
    label_files: dict[Path, str] = {}
    for number, name in enumerate(files, 1):
        label = _label_file(root, name)
        if label is None:
            unlabelled += 1
            continue
        if label in label_files:
            raise UserError(
                f"{label} belongs to two photos (one is {name}), expected one; rename one of them"
            )
        label_files[label] = name
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
    if keypoints:
        notes.append(f"keypoints were not read (kpt_shape is {list(keypoints)}): the boxes are taken")
    if polygons:
        notes.append(f"{counted(polygons, 'polygon was', 'polygons were')} read: their boxes are taken")
    if unlabelled:
        missing = counted(unlabelled, "photo has", "photos have")
        notes.append(f"{missing} no label file: they count as photos without objects")
    alone = _without_photo(root, label_files, list_files(card, root))
    if alone:
        without = counted(len(alone), "label file has", "label files have")
        notes.append(f"{without} no photo (first {alone[0].relative_to(root).as_posix()})")
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


def _without_photo(root: Path, label_files: dict[Path, str], lists: set[Path]) -> list[Path]:
    """Return the ascending label files without a photo, of the folders whose labels were read.

    label_files: those that were read, with their photo. lists: text files that are no labels. A photo of
    another subset counts, as all labels may be in one folder.
    """
    photo_folders: dict[Path, set[Path]] = {}
    for label, name in label_files.items():
        photo_folders.setdefault(label.parent, set()).add((root / name).parent)
    alone = []
    for folder, places in photo_folders.items():
        shown = {file.stem for file in folder.glob("*.txt") if file.name[0] != "." and file.name != CLASSES}
        shown -= {file.stem for place in places for file in place.iterdir() if is_image(file.name)}
        alone += [folder / f"{stem}.txt" for stem in shown]
    return sorted(set(alone) - label_files.keys() - lists)


def _rows(
    label: Path, content: bytes, names: dict[int, str], keypoints: tuple[int, int] | None
) -> tuple[list[Row], int]:
    """Return the boxes of a label file, and how many of them come from polygons.

    keypoints: their number and the values of each, which follow the box on every line; None for no keypoints.
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
        if keypoints and len(words) != 5 + math.prod(keypoints):
            raise UserError(
                f"{where}: found {counted(len(words), 'column')}, expected {5 + math.prod(keypoints)}: "
                f"class, x, y, width, height and the keypoints, as kpt_shape {list(keypoints)} of data.yaml "
                "says; correct the line or data.yaml"
            )
        shares = values[1:5] if keypoints else values[1:]
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
