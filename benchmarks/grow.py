"""Grow a data set by 1% and compare with a build from nothing.

Claims: share_of_full is below 0.05, same_bytes is true.
Peer: the same commands on the same changed data set in another folder, without an older column.

    python benchmarks/grow.py [--photos 2000] [--changed 0.01] [--teacher shapeworld] [--folder PLACE]

Renders shapeworld photos, indexes them and caches all columns. Then 1% of the photos change: a quarter each
of photos removed, photos added, photos with a moved box, photos with a new box; some others are renamed.
Both builds are timed in one process, after the teacher has been loaded. Prints one JSON line:

    same_bytes       whether every file of the columns is the same in both data sets
    share_of_full    (index_seconds + cache_seconds) / (full_index_seconds + full_cache_seconds)
    share_of_crops   the same of `cckt cache crops` without an index
    copied, made     rows of crops and images
    photos, changed, renamed, boxes, teacher, device, cores, torch_threads, load
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import ImageOps

from cckt.cache_builder.base.untrusted.image_files import open_image
from cckt.cache_builder.columns.all_at_once import cache_all
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.shapeworld.dataset import make_dataset

LONG_AGO = 1_600_000_000


def change(coco: dict[str, Any], photos: Path, count: int, renamed: int) -> None:
    """Change `count` photos of the annotations and rename `renamed` others, on the disk too."""
    images, boxes = coco["images"], coco["annotations"]
    step = len(images) // count
    chosen = images[::step][:count]
    quarter = count // 4
    removed = {image["id"] for image in chosen[:quarter]}
    next_id = max(box["id"] for box in boxes) + 1
    added = []
    for image in chosen[quarter : 2 * quarter]:  # mirrored copies, so that their bytes are new
        name = f"new-{image['file_name'].replace('/', '-')}"
        ImageOps.mirror(open_image(photos / image["file_name"]).convert("RGB")).save(photos / name)
        number = max(one["id"] for one in [*images, *added]) + 1
        added.append({**image, "id": number, "file_name": name})
        for box in [box for box in boxes if box["image_id"] == image["id"]]:
            left, top, width, height = box["bbox"]
            turned = [image["width"] - left - width, top, width, height]
            boxes.append({**box, "id": next_id, "image_id": number, "bbox": turned})
            next_id += 1
    moved = {image["id"] for image in chosen[2 * quarter : 3 * quarter]}
    for box in boxes:
        if box["image_id"] in moved:
            box["bbox"][0] = max(0.0, box["bbox"][0] - 1.5)
            moved.discard(box["image_id"])
    for image in chosen[3 * quarter :]:
        whole = [0.0, 0.0, float(image["width"]), float(image["height"])]
        boxes.append({**boxes[0], "id": next_id, "image_id": image["id"], "bbox": whole})
        next_id += 1
    coco["images"] = [image for image in images if image["id"] not in removed] + added
    coco["annotations"] = [box for box in boxes if box["image_id"] not in removed]
    for image in images[1 :: max(2, len(images) // renamed)][:renamed]:
        if image["id"] not in removed:
            new = f"renamed-{image['file_name'].replace('/', '-')}"
            os.rename(photos / image["file_name"], photos / new)
            image["file_name"] = new


def columns(data: Path) -> dict[str, str]:
    """Return the digest of every file of the columns of a data set."""
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.relative_to(data).parts[0] != "index"
    }


def main() -> None:
    """Run the measurement and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--changed", type=float, default=0.01)
    parser.add_argument("--teacher", default="shapeworld")
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    place = Path(tempfile.mkdtemp(prefix="grow-", dir=arguments.folder))
    world = place / "world"
    make_dataset(world, arguments.photos, 1)
    photos = open_index(world).image_root
    source = next(path for path in world.glob("*.json") if "annotations" in json.loads(path.read_text()))
    coco = json.loads(source.read_text())
    for path in photos.rglob("*"):  # photos of a real data set are older than the record
        if path.is_file():
            os.utime(path, (LONG_AGO, LONG_AGO))
    teacher = load_teacher(arguments.teacher)
    annotations = place / "coco.json"

    def index(data: Path) -> float:
        began = time.perf_counter()
        build_index(annotations, photos, data, "all-base")
        return time.perf_counter() - began

    def cache(data: Path, make: Any = cache_all) -> tuple[float, Any]:
        began = time.perf_counter()
        reports = make(data, teacher)
        return time.perf_counter() - began, reports

    annotations.write_text(json.dumps(coco))
    index(place / "data")
    cache(place / "data")
    index(place / "crops")
    cache(place / "crops", cache_crops)
    count = max(4, round(arguments.photos * arguments.changed))
    change(coco, photos, count, renamed=count)
    annotations.write_text(json.dumps(coco))
    grown_index = index(place / "data")
    grown, reports = cache(place / "data")
    full_index = index(place / "fresh")
    full, _ = cache(place / "fresh")
    index(place / "crops")
    crops, _ = cache(place / "crops", cache_crops)
    index(place / "fresh-crops")
    full_crops, _ = cache(place / "fresh-crops", cache_crops)
    by_name = {report.name: report for report in reports}
    pictures = [by_name["crops"], by_name["images"]]
    figures = {
        "same_bytes": columns(place / "data") == columns(place / "fresh")
        and columns(place / "crops") == columns(place / "fresh-crops"),
        "share_of_full": round((grown_index + grown) / (full_index + full), 4),
        "share_of_crops": round(crops / full_crops, 4),
        "index_seconds": round(grown_index, 2),
        "cache_seconds": round(grown, 2),
        "full_index_seconds": round(full_index, 2),
        "full_cache_seconds": round(full, 2),
        "copied": sum(report.copied_rows for report in pictures),
        "made": sum(report.made_rows for report in pictures),
        "photos": arguments.photos,
        "changed": count,
        "renamed": count,
        "boxes": len(coco["annotations"]),
        "teacher": arguments.teacher,
        "device": str(teacher.device),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load": round(load, 2),
    }
    print(json.dumps(figures))
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
