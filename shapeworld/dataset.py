"""Render a shapeworld data set from a seed: images, COCO annotations, split file and index.

`OUT/photos/00000042.png` is image 42 of the seed. `annotations.json` has the boxes of all 65 concepts in COCO
format, novel ones included. `split.json` lists the base and novel concepts. The index may leave out novel
boxes (`keep="base"`).
"""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from PIL import Image

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.constants import WORKERS_LIMIT
from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import json_object, require_ours_or_absent
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index import IndexReport, build_index
from cckt.shapeworld.pictographs import BASE, CONCEPTS, NOVEL
from cckt.shapeworld.scene import SIDE, render_photo

LARGEST_SEED = 2**24 - 1
"""Larger seeds are reserved for the training data of the teacher and the backbone."""
WORLD = "shapeworld 1"
"""Name and version of the renderer, as in world.json."""
TOGETHER = 32
"""Photos that a process gets at a time."""
PHOTO_BYTES = 40_000
"""Room on the disk for one rendered photo; its file is smaller."""
DESCRIPTION = "shapeworld: rendered photos of 65 pictographs"
"""Mark of our annotations.json, in its "info"."""
SPLIT = {"base": sorted(BASE), "novel": sorted(NOVEL)}
"""Content of split.json."""
MADE = "made by cckt data shapeworld"


def make_dataset(
    out: Path,
    photos: int,
    seed: int,
    *,
    keep: str = "all",
    workers: int | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Render images 0 to `photos` - 1 of `seed` into `out` and build their index.

    Existing images are kept, because an image depends only on seed and number; `world.json` holds the seed of
    the folder. Files without our mark are never replaced. keep: "all", or "base" to leave novel boxes out of
    the index; the images still show novel objects. workers: number of processes; default one per core. Raises
    UserError for a count below 1, a seed out of range, a folder that holds images of another seed or files of
    somebody else, and a disk without room.
    """
    from cckt.cache_builder.runner.read_ahead import follow_parent

    if photos < 1:
        raise UserError(f"--photos {photos}: expected at least 1 photo.")
    if workers is not None and not 1 <= workers <= WORKERS_LIMIT:
        raise UserError(f"--workers {workers}: expected 1 to {WORKERS_LIMIT} processes.")
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {seed}: expected a number from 0 to {LARGEST_SEED}.")
    progress = progress or Silent()
    folder = out / "photos"
    _require_ours(out, seed)
    made = len(os.listdir(folder)) if folder.exists() else 0
    require_room(out, max(photos - made, 0) * PHOTO_BYTES)
    _write_seed(out, seed)
    folder.mkdir(parents=True, exist_ok=True)
    progress.start("rendering", photos, "photos")
    records: list[dict[str, Any]] = []
    processes = min(workers or os.cpu_count() or 1, -(-photos // TOGETHER))
    with ProcessPoolExecutor(processes, initializer=follow_parent) as pool:
        for record in pool.map(_render, repeat(folder), repeat(seed), range(photos), chunksize=TOGETHER):
            records.append(record)
            progress.advance()
    progress.finish()
    _write_json(out / "annotations.json", coco_annotations(records))
    _write_json(out / "split.json", SPLIT)
    return build_index(out / "annotations.json", folder, out, split=out / "split.json", keep=keep)


def coco_annotations(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rendered images, in the order of their numbers, in COCO's "instances" format."""
    categories = [
        {"id": row + 1, "name": name, "supercategory": "pictograph"} for row, name in enumerate(CONCEPTS)
    ]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in records:
        image_id = record["number"] + 1
        images.append({"id": image_id, "file_name": record["file_name"], "width": SIDE, "height": SIDE})
        for name, (left, top, right, bottom), area in record["objects"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CONCEPTS.index(name) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": 0,
                }
            )
    info = {"description": DESCRIPTION, "version": "1"}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def _render(folder: Path, seed: int, number: int) -> dict[str, Any]:
    """Render image `number`, write it if it does not exist, and return its record."""
    photo = render_photo(seed, number)
    path = folder / f"{number:08d}.png"
    if not path.exists():
        memory = io.BytesIO()
        Image.fromarray(photo.pixels).save(memory, format="PNG", compress_level=1)
        write_bytes(path, memory.getvalue())
    objects = [(one.name, one.box_xyxy, one.area) for one in photo.objects]
    return {"number": number, "file_name": path.name, "objects": objects}


def _require_ours(out: Path, seed: int) -> None:
    """Raise UserError if `out` holds images of another seed, or files in the way that are not ours."""
    card = out / "world.json"
    require_ours_or_absent(card, lambda path: "world" in json_object(path), f"a file {MADE}")
    found = json_object(card)
    if found and found != {"world": WORLD, "seed": seed}:
        raise UserError(
            f"--out {out}: found photos of seed {found.get('seed')}, expected seed {seed}; "
            "give another folder or delete this one."
        )
    # world.json is written first, so without it the photos come from somebody else.
    require_ours_or_absent(out / "photos", lambda path: bool(found) and path.is_dir(), f"a folder {MADE}")
    require_ours_or_absent(out / "annotations.json", _is_our_annotations, f"a file {MADE}")
    require_ours_or_absent(out / "split.json", lambda path: json_object(path) == SPLIT, f"a file {MADE}")


def _is_our_annotations(path: Path) -> bool:
    info = json_object(path).get("info")
    return isinstance(info, dict) and info.get("description") == DESCRIPTION


def _write_seed(out: Path, seed: int) -> None:
    """Write world.json unless it exists."""
    out.mkdir(parents=True, exist_ok=True)
    if not json_object(out / "world.json"):
        _write_json(out / "world.json", {"world": WORLD, "seed": seed})


def _write_json(path: Path, value: object) -> None:
    write_bytes(path, (json.dumps(value) + "\n").encode())
