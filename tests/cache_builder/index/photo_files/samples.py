"""Exports with real image files for tests: COCO dicts of one category, photos with EXIF orientations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.cache_builder.index.coco_files import Coco


def save_photo(path: Path, size: tuple[int, int], orientation: int = 1) -> None:
    """Write a photo of stored size `size`, its left half red, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, quality=95, **({} if orientation == 1 else {"exif": exif}))


def export(*records: tuple[str, tuple[int, int], list[Any]], categories: tuple[str, ...] = ("cat",)) -> Coco:
    """Return a COCO dict. records: name, recorded size and boxes [x, y, w, h] of each image."""
    images, annotations = [], []
    for number, (name, (width, height), boxes) in enumerate(records, 1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for box in boxes:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box}
            )
    named = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    return {"images": images, "annotations": annotations, "categories": named}


def save_export(folder: Path, coco: Coco) -> Path:
    """Write the annotation file and return its path."""
    path = folder / "export.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco), encoding="utf-8")
    return path
