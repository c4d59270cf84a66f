"""A data set that is edited: photos and boxes that come, go and move. For the tests of growing columns."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cckt.cache_builder.index import build_index
from tests.cache_builder.column_samples import tree

FAST = {"chunk_rows": 16, "batch": 8, "workers": 1}
"""Options of a maker whose columns have several chunks."""
LONG_AGO = 1_600_000_000
"""Modification time of the photos: files that were just written are read again, see `photo_record`."""


@dataclass
class Edited:
    """Photos by file name (seed of their noise, side) and boxes (photo, box, crowd) of a data set."""

    folder: Path
    photos: dict[str, int] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    boxes: dict[int, tuple[str, tuple[float, ...], int]] = field(default_factory=dict)
    next_id: int = 1

    def add_photo(self, name: str, seed: int) -> None:
        """Render a photo of noise; the same seed gives the same file."""
        path = self.folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        side = 48 + seed % 7
        noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(path)
        os.utime(path, (LONG_AGO + seed, LONG_AGO + seed))
        self.photos[name], self.ids[name], self.next_id = seed, self.next_id, self.next_id + 1

    def add_box(self, name: str, box: tuple[float, ...], crowd: int = 0) -> None:
        """Annotate a box, left, top, width and height in pixels."""
        self.boxes[self.next_id] = (name, box, crowd)
        self.next_id += 1

    def remove_photo(self, name: str) -> None:
        """Remove a photo with its boxes."""
        (self.folder / "photos" / name).unlink()
        del self.photos[name], self.ids[name]
        self.boxes = {key: box for key, box in self.boxes.items() if box[0] != name}

    def rename_photo(self, name: str, new: str) -> None:
        """Rename the file of a photo; its boxes stay."""
        os.rename(self.folder / "photos" / name, self.folder / "photos" / new)
        self.photos[new], self.ids[new] = self.photos.pop(name), self.ids.pop(name)
        self.boxes = {
            key: (new if of == name else of, box, crowd) for key, (of, box, crowd) in self.boxes.items()
        }

    def index(self, data: Path) -> Path:
        """Write the annotations and build the index of `data`; return it."""
        images = [
            {"id": self.ids[name], "file_name": name, "width": 48 + seed % 7, "height": 48 + seed % 7}
            for name, seed in self.photos.items()
        ]
        annotations: list[dict[str, Any]] = [
            {
                "id": key,
                "image_id": self.ids[name],
                "category_id": 1 + key % 2,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for key, (name, box, crowd) in self.boxes.items()
        ]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        coco = {"images": images, "annotations": annotations, "categories": categories}
        (self.folder / "coco.json").write_text(json.dumps(coco))
        build_index(self.folder / "coco.json", self.folder / "photos", data, "all-base")
        return data


def some_photos(folder: Path, photos: int = 12, boxes: int = 5) -> Edited:
    """Return a data set of `photos` photos with `boxes` boxes each, one of them under 16 px, one a crowd."""
    edited = Edited(folder)
    rng = np.random.default_rng(0)
    for number in range(photos):
        name = f"{number:03d}.png"
        edited.add_photo(name, number)
        for k in range(boxes):
            side = 10.0 if k == 3 else float(rng.uniform(16, 30))
            left, top = rng.uniform(0, 17, 2).tolist()
            edited.add_box(name, (left, top, side, side), crowd=int(k == 4))
    return edited


def columns_of(data: Path) -> dict[str, str]:
    """Return the files of the columns of a data set, with their digests."""
    return {name: digest for name, digest in tree(data).items() if not name.startswith("index/")}


def from_nothing(edited: Edited, place: Path, make: Callable[[Path], Any]) -> dict[str, str]:
    """Return the files of the columns of the same data set, made without an older column."""
    data = edited.index(place)
    make(data)
    files = columns_of(data)
    shutil.rmtree(data)
    return files


def one_box_more(edited: Edited) -> None:
    """Add a box to photo 3."""
    edited.add_box("003.png", (2.0, 2.0, 20.0, 20.0))


def one_box_less(edited: Edited) -> None:
    """Remove the last box."""
    edited.boxes.popitem()


def changed_since(
    folder: Path, make: Callable[[Path], Any], edit: Callable[[Edited], None], **photos: int
) -> tuple[Edited, Path]:
    """Return photos and their data set, indexed again after `edit`; `make` made its columns before."""
    edited = some_photos(folder, **photos)
    data = edited.index(folder / "data")
    make(data)
    edit(edited)
    edited.index(data)
    return edited, data
