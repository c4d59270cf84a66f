"""Time the building and opening of an index of the size of COCO.

Claim: building takes under 90 s and under 4 GB, opening under 0.2 s.
Peer: none.

    python benchmarks/build_index.py [--photos 118000] [--boxes 860000] [--masks]

The annotations are synthetic: 118,000 images, 860,000 boxes, 80 categories. --masks adds a polygon of 15
points to each box, which gives a file of about the size of COCO's (0.45 GB). Prints one JSON line:

    seconds, cpu_seconds, peak_gb   wall time, CPU time and peak memory of the build, in a process of its own
    open_seconds                    time to open the index in a new process, after the imports
    json_mb, photos, boxes          size of the file, and its contents
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np


def write_annotations(path: Path, photos: int, boxes: int, masks: bool) -> None:
    """Write a COCO-format file; images and boxes are in random order, as in real files."""
    rng = np.random.default_rng(0)
    image_ids = rng.permutation(600_000)[:photos] + 1
    of_image = image_ids[rng.integers(0, photos, boxes)]
    corners, sides = rng.uniform(0, 400, (boxes, 2)).round(2), rng.uniform(1, 240, (boxes, 2)).round(2)
    category = rng.integers(1, 81, boxes)
    polygon = ", ".join(f"{v:.2f}" for v in rng.uniform(0, 480, 30))
    mask = f'"segmentation": [[{polygon}]], ' if masks else ""
    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        file.write(
            ", ".join(
                f'{{"license": 4, "file_name": "{i:012d}.jpg", "height": 480, "width": 640, "id": {i}, '
                f'"coco_url": "http://images.cocodataset.org/train2017/{i:012d}.jpg"}}'
                for i in image_ids.tolist()
            )
        )
        file.write('], "annotations": [')
        for row in range(boxes):
            (x, y), (w, h) = corners[row].tolist(), sides[row].tolist()
            file.write(", " * (row > 0))
            file.write(
                f'{{{mask}"area": {w * h / 2:.4f}, "iscrowd": {int(row % 90 == 0)}, '
                f'"image_id": {of_image[row]}, "bbox": [{x}, {y}, {w}, {h}], '
                f'"category_id": {category[row]}, "id": {boxes - row}}}'
            )
        file.write('], "categories": [')
        file.write(", ".join(f'{{"id": {k}, "name": "concept {k}"}}' for k in range(1, 81)))
        file.write("]}")


def _build(folder: Path, results: multiprocessing.Queue[dict[str, float]]) -> None:
    """Build the index; put time, peak memory and number of boxes into the queue."""
    from cckt.cache_builder.index import build_index

    start, cpu = time.perf_counter(), time.process_time()
    report = build_index(folder / "a.json", folder / "photos", folder / "data", "all-base")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    figures = {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_gb": round(peak, 3)}
    results.put({**figures, "boxes": report.boxes})


def _open(folder: Path, results: multiprocessing.Queue[dict[str, float]]) -> None:
    """Open the index and read one row; put the time into the queue."""
    from cckt.cache_builder.index import open_index

    start = time.perf_counter()
    index = open_index(folder / "data")
    assert len(index.box_xyxy[index.boxes_of(len(index) - 1)]) >= 0
    results.put({"open_seconds": round(time.perf_counter() - start, 4)})


def main() -> None:
    """Write the file, build and open the index, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--masks", action="store_true")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_annotations(folder / "a.json", options.photos, options.boxes, options.masks)
        first = json.loads((folder / "a.json").open().read(400).split('"images": [')[1].split("}")[0] + "}")
        (folder / "photos").mkdir()
        (folder / "photos" / first["file_name"]).touch()
        figures: dict[str, float] = {"json_mb": round((folder / "a.json").stat().st_size / 1e6, 1)}
        for step in (_build, _open):
            results = context.Queue()
            process = context.Process(target=step, args=(folder, results))
            process.start()
            figures |= results.get()
            process.join()
    print(json.dumps({"benchmark": "build_index", "photos": options.photos, **figures}))


if __name__ == "__main__":
    main()
