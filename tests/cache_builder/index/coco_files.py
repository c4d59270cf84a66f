"""COCO-format files for tests: small, valid, and easy to break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Coco = dict[str, Any]


def small_coco() -> Coco:
    """Three photos (the last without boxes), three categories, four boxes; every list out of order."""
    return {
        "info": {"year": 2024},
        "images": [
            {"id": 30, "file_name": "c.jpg", "width": 40, "height": 30},
            {"id": 7, "file_name": "sub/a.jpg", "width": 100, "height": 80},
            {"id": 12, "file_name": "b.jpg", "width": 60, "height": 50},
        ],
        "annotations": [
            {"id": 5, "image_id": 12, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 6.5, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 2, "bbox": [10.5, 20, 30, 40], "area": 900, "iscrowd": 0},
            {"id": 1, "image_id": 12, "category_id": 2, "bbox": [0, 0, 60, 50], "area": 3000, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [5, 6, 7, 8]},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "fire_truck"}, {"id": 4, "name": "Dog"}],
    }


def write_coco(folder: Path, coco: Any, photos: bool = True) -> tuple[Path, Path]:
    """Write annotations (text is written as it is) and empty photos; returns (JSON, images folder)."""
    images = folder / "photos"
    images.mkdir(parents=True, exist_ok=True)
    path = folder / "annotations.json"
    path.write_text(coco if isinstance(coco, str) else json.dumps(coco), encoding="utf-8")
    if photos and isinstance(coco, dict):
        for record in coco.get("images", []):
            name = record.get("file_name") if isinstance(record, dict) else None
            if isinstance(name, str) and ".." not in name and not name.startswith("/"):
                (images / name).parent.mkdir(parents=True, exist_ok=True)
                (images / name).touch()
    return path, images


def write_split(folder: Path, base: list[Any], novel: list[Any]) -> Path:
    """A user's split file."""
    path = folder / "split.json"
    path.write_text(json.dumps({"base": base, "novel": novel}), encoding="utf-8")
    return path
