"""How near the crop cache comes to the ideal, and how far ahead of one crop at a time it is.

Prints one JSON line. In one run, over the same photos and boxes, best of `--repeats`:

* teacher_seconds: the teacher alone, on pixels that lie in memory, in the pipeline's batches;
* decode_seconds: decode + crop + resize alone, by the pipeline's reader and threads;
* pipeline_seconds: `cache_crops`, column written and finished;
* single_seconds: the loop of the paper's released script: for each box open the photo, crop, preprocess,
  encode a batch of one, keep the row;
* ideal_ratio = max(teacher_seconds, decode_seconds) / pipeline_seconds, claimed at least 0.9: whichever is
  slower hides the other. Where both want the same CPU nothing can hide (`shared_ratio` then has their sum in
  the numerator);
* speedup_vs_single = single_seconds / pipeline_seconds, claimed at least 5 with a tiny teacher on two cores.

    python benchmarks/crop_pipeline.py --annotations instances_val2017.json --images val2017 [--teacher
    shapeworld]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cache_builder.crops import CropReader, cache_crops, crop_rectangles, photo_spans, usable_boxes
from cache_builder.images import check_numbers
from cache_builder.index import Index, build_index, open_index
from cache_builder.teacher import Teacher, load_teacher


def best(repeats: int, work: Callable[[], object]) -> float:
    """Shortest of `repeats` wall times in seconds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def one_at_a_time(index: Index, teacher: Teacher) -> np.ndarray:
    """(usable boxes, D) float16, made as the released script makes them."""
    rows = []
    for row in np.flatnonzero(usable_boxes(index)).tolist():
        photo = Image.open(index.photo_path(int(index.box_images[row]))).convert("RGB")
        (box,) = crop_rectangles(index.box_xyxy[row : row + 1], photo.size).tolist()
        rows.append(teacher.encode_images(teacher.preprocess(photo.crop(tuple(box)))[None])[0])
    return np.stack(rows).astype(np.float16)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--teacher", default="shapeworld")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    teacher = load_teacher(arguments.teacher, device=arguments.device)
    batch, workers = arguments.batch, check_numbers(arguments.batch, arguments.workers, None)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        build_index(arguments.annotations, arguments.images, data, "all-base")
        index = open_index(data)
        reader = CropReader(index, teacher.preprocess)
        spans = photo_spans(index.box_images, 0)

        def decode() -> list[np.ndarray]:
            with ThreadPoolExecutor(max(workers, 1)) as pool:
                found = pool.map(lambda span: list(reader(*span)), spans)
                return [item.data for items in found for item in items if item.data is not None]

        def pipeline() -> None:
            shutil.rmtree(data / "crops", ignore_errors=True)
            cache_crops(data, teacher, batch=batch, workers=workers)

        pixels = np.stack(decode())
        batches = [pixels[lo : lo + batch] for lo in range(0, len(pixels), batch)]
        teacher.encode_images(batches[0])
        figures = {
            "teacher_seconds": best(arguments.repeats, lambda: [teacher.encode_images(b) for b in batches]),
            "decode_seconds": best(arguments.repeats, decode),
            "pipeline_seconds": best(arguments.repeats, pipeline),
            "single_seconds": best(1, lambda: one_at_a_time(index, teacher)),
        }
        slower = max(figures["teacher_seconds"], figures["decode_seconds"])
        both = figures["teacher_seconds"] + figures["decode_seconds"]
        line = {
            **{key: round(value, 4) for key, value in figures.items()},
            "ideal_ratio": round(slower / figures["pipeline_seconds"], 3),
            "shared_ratio": round(both / figures["pipeline_seconds"], 3),
            "speedup_vs_single": round(figures["single_seconds"] / figures["pipeline_seconds"], 2),
            "photos": len(index),
            "crops": len(pixels),
            "teacher": arguments.teacher,
            "device": str(teacher.device),
            "batch": batch,
            "workers": workers,
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
