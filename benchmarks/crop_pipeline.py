"""How near the crop cache comes to the ideal, and how far ahead of one crop at a time it is.

Prints one JSON line. In one run, over the same photos and boxes, best of `--repeats`, taken in turns so that
a busy machine slows all alike:

* teacher_seconds: the teacher alone, on pixels that lie in memory, in the pipeline's batches;
* decode_seconds: decode + crop + resize alone, by the pipeline's reader and threads;
* pipeline_seconds: `cache_crops`, column written and finished;
* single_seconds: the loop of the paper's released script: open each photo once, then for each of its boxes
  crop, preprocess and encode a batch of one; with open_clip's model as open_clip loads it, on all cores;
* ideal_ratio = max(teacher_seconds, decode_seconds) / pipeline_seconds, claimed at least 0.9: the slower
  part hides the other. On a GPU they do not compete; on a CPU each is given its cores, in the pipeline and
  alone: --workers threads that decode and --torch-threads for the teacher, together no more than there are;
* shared_ratio: the same with the sum of both in the numerator, for threads that share all cores: 1 is a
  pipeline that loses nothing between its parts; it does not stand for the claim;
* teacher_gflops: billions of operations a second of the teacher alone, all cores (`gflop_per_crop` each);
* speedup_vs_single = single_seconds / pipeline_seconds, claimed at least 5 with a tiny teacher on two cores.

Also cosine_least and cosine_median of the pipeline's float16 rows to those of the loop, in its fp32; and with
--fast fast_cosine, the median that the report prints. --copies N lists every photo N times, each time decoded
and cropped anew: starting and finishing a column costs a tenth of a second, however many photos there are.

    python benchmarks/crop_pipeline.py --annotations instances_val2017.json --images val2017 [--teacher
    shapeworld] [--workers 1 --torch-threads 1] [--fast] [--precision bf16] [--batch 64]
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
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from cckt.cache_builder.columns.crops import (
    cache_crops,
    crop_reader,
    crop_rectangles,
    photo_spans,
    usable_boxes,
)
from cckt.cache_builder.columns.images import encoder
from cckt.cache_builder.columns.options import check_numbers
from cckt.cache_builder.columns.report import CacheReport
from cckt.cache_builder.index import Index, build_index, open_index
from cckt.cache_builder.photos import open_image
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import load_teacher


def timed(work: Callable[[], object]) -> float:
    """Wall time in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def one_at_a_time(
    index: Index, model: torch.nn.Module, transform: Callable[[Image.Image], torch.Tensor]
) -> torch.Tensor:
    """(n, D) rows of the usable boxes, made as the released script makes them."""
    rows = []
    for image in range(len(index)):
        boxes = index.boxes_of(image)
        usable = boxes.start + np.flatnonzero(usable_boxes(index, boxes.start, boxes.stop))
        photo = open_image(index.photo_path(image)).convert("RGB")
        for box in crop_rectangles(index.box_xyxy[usable], photo.size).tolist():
            roi = transform(photo.crop(tuple(box))).unsqueeze(0)
            with torch.no_grad():
                rows.append(model.encode_image(roi))
    return torch.cat(rows)


def copied(records: dict[str, Any], copies: int) -> dict[str, Any]:
    """COCO records of the same photos and boxes `copies` times, under ids of their own."""
    images = 1 + max(image["id"] for image in records["images"])
    boxes = 1 + max(box["id"] for box in records["annotations"])
    return records | {
        "images": [
            image | {"id": image["id"] + n * images} for n in range(copies) for image in records["images"]
        ],
        "annotations": [
            box | {"id": box["id"] + n * boxes, "image_id": box["image_id"] + n * images}
            for n in range(copies)
            for box in records["annotations"]
        ],
    }


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
    parser.add_argument("--torch-threads", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    all_threads = torch.get_num_threads()
    threads = arguments.torch_threads or all_threads
    teacher = load_teacher(arguments.teacher, device=arguments.device, precision=arguments.precision)
    plain, _, transform = open_clip.create_model_and_transforms(*_as_open_clip(arguments.teacher))
    batch, workers = arguments.batch, check_numbers(arguments.batch, arguments.workers, None)
    encode = encoder(teacher)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        records = data / "records.json"
        records.write_text(
            json.dumps(copied(json.loads(arguments.annotations.read_text()), arguments.copies))
        )
        build_index(records, arguments.images, data, "all-base")
        index = open_index(data)
        reader = crop_reader(index, teacher, "box", fast=arguments.fast)
        spans = photo_spans(index.box_images, 0)

        def decode() -> list[np.ndarray]:
            with ThreadPoolExecutor(max(workers, 1)) as pool:
                found = pool.map(lambda span: list(reader(*span)), spans)
                return [item.data for items in found for item in items if item.data is not None]

        def pipeline() -> CacheReport:
            shutil.rmtree(data / "crops", ignore_errors=True)
            return cache_crops(data, teacher, batch=batch, workers=workers, fast=arguments.fast)

        def teach() -> None:
            """One batch ahead, as the pipeline does."""
            waiting: list[Callable[[], np.ndarray]] = []
            for pixels in batches:
                waiting.append(encode(pixels))
                if len(waiting) > 1:
                    waiting.pop(0)()
            for wait in waiting:
                wait()

        pixels = decode()
        batches = [pixels[lo : lo + batch] for lo in range(0, len(pixels), batch)]
        encode(batches[0])()
        seconds: dict[str, list[float]] = {}
        reports: list[CacheReport] = []
        for _ in range(arguments.repeats):
            torch.set_num_threads(threads)
            encode(batches[0])()  # the teacher's threads are there
            made = pipeline()
            reports.append(made)
            seconds.setdefault("pipeline_seconds", []).append(made.seconds)  # without the sample of --fast
            seconds.setdefault("teacher_seconds", []).append(timed(teach))
            seconds.setdefault("decode_seconds", []).append(timed(decode))
            torch.set_num_threads(all_threads)
            began = time.perf_counter()
            rows = one_at_a_time(index, plain.eval(), transform)
            seconds.setdefault("single_seconds", []).append(time.perf_counter() - began)
        figures = {key: min(values) for key, values in seconds.items()}
        parts = figures["teacher_seconds"], figures["decode_seconds"]
        agreed = reports[-1].agreement
        column = open_column(data, "crops")
        made_rows = torch.from_numpy(column.take(np.flatnonzero(column.valid_all()))).float()
        likeness = torch.cosine_similarity(made_rows, rows)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            plain.encode_image(transform(Image.new("RGB", (64, 64))).unsqueeze(0))
        gflop = counter.get_total_flops() / 1e9
        line = {
            **{key: round(value, 4) for key, value in figures.items()},
            "ideal_ratio": round(max(parts) / figures["pipeline_seconds"], 3),
            "shared_ratio": round(sum(parts) / figures["pipeline_seconds"], 3),
            "speedup_vs_single": round(figures["single_seconds"] / figures["pipeline_seconds"], 2),
            "fast_cosine": None if agreed is None else round(agreed.median, 6),
            "cosine_least": round(float(likeness.min()), 6),
            "cosine_median": round(float(likeness.median()), 6),
            "gflop_per_crop": round(gflop, 3),
            "teacher_gflops": round(gflop * len(pixels) / figures["teacher_seconds"], 1),
            "photos": len(index),
            "copies": arguments.copies,
            "crops": len(pixels),
            "teacher": arguments.teacher,
            "device": str(teacher.device),
            "precision": arguments.precision,
            "batch": batch,
            "workers": workers,
            "cores": os.cpu_count(),
            "torch_threads": threads,
            "load": round(os.getloadavg()[0], 2),
        }
        print(json.dumps(line))


def _as_open_clip(name: str) -> tuple[str, str | None]:
    """Model and weights as open_clip's own factory takes them; a seed's weights take no longer or shorter."""
    if name == "shapeworld":
        return f"local-dir:{Path(__file__).resolve().parents[1] / 'shapeworld' / 'teacher'}", None
    model, _, weights = name.partition("/")
    return (name, None) if ":" in model else (model, None if weights.startswith("random:") else weights)


if __name__ == "__main__":
    main()
