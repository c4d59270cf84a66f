"""Small objects of large photos: `--tile` against the whole photo, in mosaics of the photos of a data set.

    python benchmarks/windows.py RUN DATA [--grid 4] [--mosaics 20]

A mosaic is GRID x GRID photos of a data set next to each other, so that its objects are known: each is GRID
times smaller in the view of the detector than in the photo itself. A box is found if a detection of its
concept overlaps it with an IoU of 0.5 or more, at the threshold of `cckt predict`.

Prints one JSON line: for the whole mosaic and for windows of one photo's side, the share of boxes found, the
share of detections that are right, and seconds per mosaic.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou

from cckt import Detector
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import load_photo
from cckt.detector.inference.prediction import Prediction


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, help="A data set whose photos have one size.")
    parser.add_argument("--grid", type=int, default=4)
    parser.add_argument("--mosaics", type=int, default=20)
    given = parser.parse_args()
    index, detector = open_index(given.data), Detector.load(given.run, "cpu")
    side = int(max(index.widths[0], index.heights[0]))
    count = given.grid**2
    starts = range(0, min(len(index) // count, given.mosaics) * count, count)
    mosaics = [mosaic(index, range(start, start + count), given.grid, side) for start in starts]
    figures: dict[str, Any] = {}
    for name, options in (("whole", {}), ("windows", {"tile": side, "overlap": 0.2})):
        began = time.perf_counter()
        found = detector.predict([photo for photo, _, _ in mosaics], index.concepts, **options)
        seconds = time.perf_counter() - began
        figures[name] = scored(found, mosaics) | {"seconds": round(seconds / max(len(mosaics), 1), 2)}
    facts = {"mosaics": len(mosaics), "grid": given.grid, "side": side * given.grid, **figures}
    print(json.dumps(facts | {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}))


Mosaic = tuple[Image.Image, np.ndarray, np.ndarray]


def mosaic(index: Index, rows: range, grid: int, side: int) -> Mosaic:
    """Return a mosaic of images, its (M, 4) xyxy boxes and their (M,) concepts; crowds are left out."""
    page, boxes, concepts = Image.new("RGB", (grid * side, grid * side)), [], []
    for at, row in enumerate(rows):
        left, top = at % grid * side, at // grid * side
        page.paste(load_photo(index.photo_path(row)), (left, top))
        own = index.boxes_of(row)
        kept = ~index.iscrowd[own]
        boxes.append(index.box_xyxy[own][kept] + [left, top, left, top])
        concepts.append(index.box_concepts[own][kept])
    return page, np.concatenate(boxes), np.concatenate(concepts)


def scored(found: list[Prediction], mosaics: list[Mosaic]) -> dict[str, float]:
    """Return recall and precision in percent, and the number of detections per mosaic."""
    hit = boxes_in_all = right = detections = 0
    for one, (_, boxes, concepts) in zip(found, mosaics, strict=True):
        boxes_in_all += len(boxes)
        detections += len(one)
        overlap = box_iou(torch.from_numpy(one.boxes_xyxy).double(), torch.from_numpy(boxes)).numpy()
        fits = (overlap >= 0.5) & (one.concepts[:, None] == concepts[None])
        hit += int(fits.any(0).sum())
        right += int(fits.any(1).sum())
    return {
        "recall": round(100 * hit / max(boxes_in_all, 1), 1),
        "precision": round(100 * right / max(detections, 1), 1),
        "detections": round(detections / max(len(found), 1), 1),
    }


if __name__ == "__main__":
    main()
