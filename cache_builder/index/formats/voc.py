"""Read a folder of Pascal VOC annotations: one XML file per image.

Boxes of VOC are corners in pixels counted from 1, both inside the box: xmin 1 and xmax W cover all columns.
Tools that count from 0 write xmin 0 somewhere; then all boxes of the folder are read as plain corners.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cckt.cache_builder.base.errors import UserError, brief, counted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.base.untrusted.image_files import SUFFIXES
from cckt.cache_builder.base.untrusted.regular_files import read_regular, read_regular_text
from cckt.cache_builder.base.untrusted.text import natural
from cckt.cache_builder.index.formats import BOX_DTYPE, IMAGE_DTYPE, Annotations
from cckt.cache_builder.index.formats.repairs import Repairs, as_flag
from cckt.cache_builder.vocabulary import Concept


@dataclass
class _Photo:
    """One XML file. objects: (name, [xmin, ymin, xmax, ymax], difficult)."""

    path: Path
    name: str
    size: tuple[int, int]
    objects: list[tuple[str, list[float], bool]] = field(default_factory=list)


def voc_images(path: Path) -> Path:
    """Return the folder of the photos of a VOC folder: JPEGImages, or the folder itself."""
    return path / "JPEGImages" if (path / "JPEGImages").is_dir() else path


def read_voc(path: Path, progress: Progress, repairs: Repairs, subset: str | None = None) -> Annotations:
    """Read the XML files of a VOC folder, in `Annotations` or in the folder itself.

    subset: read only the photos that `ImageSets/Main/SUBSET.txt` lists. Images and categories are numbered by
    ascending name over all XML files, so that all subsets have the same ids. Raises UserError where a file is
    no VOC annotation, and where a subset names a photo without one.
    """
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    found = os.listdir(folder) if folder.is_dir() else ()
    files = sorted(folder / name for name in found if name.endswith(".xml"))
    if not files:
        raise UserError(
            f"{folder} holds no XML files, expected one per photo; give the folder of a VOC data set"
        )
    chosen = {file.stem for file in files} if subset is None else _listed(path, subset, files)
    progress.start(f"read {folder.name}", len(files), "files")
    hashed, photos = hashlib.sha256(), {}
    for number, file in enumerate(files, 1):
        content = read_regular(file)
        hashed.update(file.name.encode() + b"\0" + content)
        photos[number] = _read_photo(file, content, repairs)
        progress.advance()
    progress.finish()
    names = sorted({name for photo in photos.values() for name, _, _ in photo.objects})
    if not names:
        raise UserError(
            f"{folder}: none of its {counted(len(files), 'XML file')} has an object, expected at least one"
        )
    category_of = {name: number for number, name in enumerate(names, 1)}
    corners = [box for photo in photos.values() for _, box, _ in photo.objects]
    first = 0 if any(min(box[:2]) <= 0 for box in corners) else 1
    images = np.array(
        [(number, *photo.size) for number, photo in photos.items() if photo.path.stem in chosen], IMAGE_DTYPE
    )
    rows = [
        (number, category_of[name], box, difficult)
        for number, photo in photos.items()
        if photo.path.stem in chosen
        for name, box, difficult in photo.objects
    ]
    boxes = np.zeros(len(rows), BOX_DTYPE)
    boxes["id"] = np.arange(1, len(rows) + 1)
    boxes["area"] = math.nan
    for at, (number, category, (x0, y0, x1, y1), difficult) in enumerate(rows):
        boxes["image_id"][at], boxes["category_id"][at], boxes["difficult"][at] = number, category, difficult
        boxes["xywh"][at] = (x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first)
    return Annotations(
        path,
        "sha256:" + hashed.hexdigest(),
        images,
        [photo.name for photo in photos.values() if photo.path.stem in chosen],
        boxes,
        [Concept(number, name, split="other") for name, number in category_of.items()],
        image_counts=[None] * len(names),
        repairs=repairs,
        notes=[f"corners are counted from {first}" + (", as in Pascal VOC" if first else ": some are 0")],
    )


def _listed(path: Path, subset: str, files: list[Path]) -> set[str]:
    """Return the names, without their ending, that ImageSets/Main/SUBSET.txt lists."""
    place = path / "ImageSets" / "Main" / f"{subset}.txt"
    try:
        listed = {line.split()[0] for line in read_regular_text(place).splitlines() if line.split()}
    except (OSError, ValueError):
        raise UserError(f"{place} cannot be read, expected the names of photos; correct --subset") from None
    missing = sorted(listed - {file.stem for file in files})
    if missing or not listed:
        raise UserError(
            f"{place} lists {counted(len(listed), 'photo')}, {len(missing)} of them without an XML file"
            + (f" (the first is {missing[0]})" if missing else "")
            + ", expected one for each; correct the list"
        )
    return listed


def _read_photo(path: Path, content: bytes, repairs: Repairs) -> _Photo:
    if b"<!ENTITY" in content or b"<!DOCTYPE" in content:
        raise UserError(f"{path} declares entities, which VOC annotations never do; remove the declaration")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as fault:
        raise UserError(f"{path} is not valid XML ({fault}); repair the file or remove it") from None
    if root.tag != "annotation":
        raise UserError(f"{path} holds <{root.tag}>, expected <annotation> as in Pascal VOC")
    size = tuple(_side(root, key, path) for key in ("width", "height"))
    photo = _Photo(path, _file_name(root, path, repairs), (size[0], size[1]))
    for one in root.iter("object"):
        name = " ".join((one.findtext("name") or "").split())
        if not name:
            raise UserError(f"{path}: an object has no <name>, expected the name of its class")
        box = [_corner(one, key, path) for key in ("xmin", "ymin", "xmax", "ymax")]
        difficult = as_flag(one.findtext("difficult"))
        if difficult is None:
            text = brief(one.findtext("difficult"))
            raise UserError(f"{path}: <difficult> of an object is {text}, expected 0 or 1; correct it")
        photo.objects.append((name, box, difficult == 1))
    return photo


def _side(root: ElementTree.Element, key: str, path: Path) -> int:
    text = (root.findtext(f"size/{key}") or "").strip()
    number = natural(text)
    if not number or number >= 2**31:
        raise UserError(f"{path}: <size> has the {key} {text!r}, expected the photo's size in pixels")
    return number


def _corner(one: ElementTree.Element, key: str, path: Path) -> float:
    text = one.findtext(f"bndbox/{key}")
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: <bndbox> has the {key} {text!r}, expected pixels")
    return value


def _file_name(root: ElementTree.Element, path: Path, repairs: Repairs) -> str:
    """Return the <filename>; where it is not on disk, the image named like the XML file."""
    name = (root.findtext("filename") or "").strip()
    images = repairs.images
    if name and (images is None or images.has(name)):
        return name
    if images is not None:
        for suffix in SUFFIXES:
            for other in (path.stem + suffix, path.stem + suffix.upper()):
                if other in images:
                    return other
    return name or f"{path.stem}.jpg"
