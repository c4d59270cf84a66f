"""A data set of shapeworld: photos, COCO JSON, a split file and the index, from a seed.

`OUT/photos/00000042.png` is photo 42 of the world `seed`; `annotations.json` lists every object of the 65
concepts, novel ones too, as COCO's files do; `split.json` says which are base. What training may see is the
index's matter (`keep="base"`).
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from PIL import Image

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index import IndexReport, build_index
from cckt.shapeworld.pictographs import BASE, CONCEPTS, NOVEL
from cckt.shapeworld.scene import SIDE, Photo, photo

LARGEST_SEED = 2**24 - 1  # larger ones are the teacher's reading and the backbone's pictures


def make_dataset(
    out: Path,
    photos: int,
    seed: int,
    *,
    keep: str = "all",
    workers: int | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Render `photos` photos of the world `seed` into `out` and index them.

    Photos that are there already are kept: a photo follows from seed and number, and `world.json` refuses a
    folder of another seed. `keep="base"` leaves novel boxes out of the index; the photos still show them.
    Raises UserError for a count below 1, a seed out of range or a folder that holds another world.
    """
    if photos < 1:
        raise UserError(f"--photos {photos}: expected at least 1 photo.")
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {seed}: expected a number from 0 to {LARGEST_SEED}.")
    progress = progress or Silent()
    folder = out / "photos"
    _claim(out, seed)
    folder.mkdir(parents=True, exist_ok=True)
    progress.start("rendering", photos, "photos")
    records: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for record in pool.map(_render, repeat(folder), repeat(seed), range(photos), chunksize=32):
            records.append(record)
            progress.advance()
    progress.finish()
    _write_json(out / "annotations.json", coco_annotations(records))
    _write_json(out / "split.json", {"base": sorted(BASE), "novel": sorted(NOVEL)})
    return build_index(out / "annotations.json", folder, out, split=out / "split.json", keep=keep)


def coco_annotations(records: list[dict[str, Any]]) -> dict[str, Any]:
    """COCO's "instances" format of rendered photos, in the order of their numbers."""
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
    info = {"description": "shapeworld: rendered photos of 65 pictographs", "version": "1"}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def _render(folder: Path, seed: int, number: int) -> dict[str, Any]:
    """Render photo `number`, write it if it is not there, and say what it shows."""
    shown: Photo = photo(seed, number)
    path = folder / f"{number:08d}.png"
    if not path.exists():
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        Image.fromarray(shown.pixels).save(partial, format="PNG", compress_level=1)
        os.replace(partial, path)
    objects = [(thing.name, thing.box_xyxy, thing.area) for thing in shown.objects]
    return {"number": number, "file_name": path.name, "objects": objects}


def _claim(out: Path, seed: int) -> None:
    """Say whose world the folder holds, or refuse one that holds another."""
    claim = out / "world.json"
    if claim.exists():
        found = json.loads(claim.read_text())
        if found != {"world": "shapeworld 1", "seed": seed}:
            raise UserError(
                f"--out {out}: found photos of seed {found.get('seed')}, expected seed {seed}; "
                "name another folder or delete this one."
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    _write_json(claim, {"world": "shapeworld 1", "seed": seed})


def _write_json(path: Path, value: object) -> None:
    write_bytes(path, (json.dumps(value) + "\n").encode())
