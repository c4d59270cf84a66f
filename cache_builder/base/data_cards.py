"""What the folder of a data set says about its origin, for defaults and hints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.ownership import json_object

WORLD_FILE = "world.json"
"""File that marks a folder with photos of shapeworld."""


def is_shapeworld(data: Path) -> bool:
    """Return whether a data set shows shapeworld: it was rendered there, or its photos lie in such a folder,
    as those of an index that somebody made of rendered photos."""
    if (data / WORLD_FILE).is_file():
        return True
    root = _card(data).get("image_root")
    photos = data / root if isinstance(root, str) else data
    return any((place / WORLD_FILE).is_file() for place in (photos, photos.parent))


def teacher_of_finds(data: Path) -> str:
    """Return the teacher of the run that found a data set's pseudo boxes; "" if there are none."""
    pseudo = _card(data).get("pseudo")
    teacher = pseudo.get("teacher") if isinstance(pseudo, Mapping) else None
    return teacher if isinstance(teacher, str) else ""


def _card(data: Path) -> dict[str, Any]:
    """Return index.json as it is written; {} without a readable one."""
    return json_object(data / "index" / "index.json")
