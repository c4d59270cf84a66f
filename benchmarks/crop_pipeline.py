"""Compare the crop pipeline with its slowest part, and with encoding one crop at a time.

Claims: ideal_ratio is at least 0.9; with a tiny teacher on two cores, speedup_vs_single is at least 5.
Peer: the loop of the paper's released script. It opens each image once; for each box it crops, preprocesses
and encodes a batch of one, with open_clip's model as open_clip loads it, on all cores.

    python benchmarks/crop_pipeline.py --annotations instances_val2017.json --images val2017
        [--teacher shapeworld] [--workers 1 --torch-threads 1] [--fast] [--precision bf16] [--batch 64]
        [--copies 1] [--repeats 3]

All parts run on the same images and boxes and alternate, so that other load on the machine affects all. Times
are the best of --repeats. Prints one JSON line:

    teacher_seconds       the teacher on pixels in memory, in the batches of the pipeline
    decode_seconds        decoding, cropping and resizing, with the reader and threads of the pipeline
    pipeline_seconds      `cache_crops`: the column is written and finished
    single_seconds        the peer
    ideal_ratio           max(teacher_seconds, decode_seconds) / pipeline_seconds: 1 if the slower part hides
                          the other. On a CPU each part has separate cores: --workers and --torch-threads
                          together must not exceed the cores
    shared_ratio          (teacher_seconds + decode_seconds) / pipeline_seconds, for threads that share all
                          cores: 1 if nothing is lost between the parts; not part of the claim
    speedup_vs_single     single_seconds / pipeline_seconds
    teacher_gflops        billions of operations per second of the teacher; gflop_per_crop: of one crop
    cosine_least, cosine_median   cosines of the pipeline's float16 rows and the peer's fp32 rows
    fast_cosine           with --fast: median cosine in the report of the column
    photos, copies, crops, teacher, device, precision, batch, workers, cores, torch_threads, load

--copies N lists every image N times, each decoded and cropped separately: starting and finishing a column
takes 0.1 s for any number of images.
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

from cckt.cache_builder.base.untrusted.image_files import open_image
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
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import load_teacher


def timed(work: Callable[[], object]) -> float:
    """Return the wall time of a call in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def one_at_a_time(
    index: Index, model: torch.nn.Module, transform: Callable[[Image.Image], torch.Tensor]
) -> torch.Tensor:
    """Return (n, D) embeddings of the usable boxes, made like the released script."""
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
    """Return COCO records with every image and box `copies` times, with new ids."""
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
    """Measure and print the figures."""
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
    encode = encoder(teacher, arguments.batch)
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
            """Decode, crop and resize all crops with the reader and threads of the pipeline."""
            with ThreadPoolExecutor(max(workers, 1)) as pool:
                found = pool.map(lambda span: list(reader(*span)), spans)
                return [item.data for items in found for item in items if item.data is not None]

        def pipeline() -> CacheReport:
            """Make the column."""
            shutil.rmtree(data / "crops", ignore_errors=True)
            return cache_crops(data, teacher, batch=batch, workers=workers, fast=arguments.fast)

        def encode_all() -> None:
            """Encode all batches, one batch ahead like the pipeline."""
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
            encode(batches[0])()  # start the threads of the teacher
            made = pipeline()
            reports.append(made)
            seconds.setdefault("pipeline_seconds", []).append(
                made.seconds
            )  # without the comparison of --fast
            seconds.setdefault("teacher_seconds", []).append(timed(encode_all))
            seconds.setdefault("decode_seconds", []).append(timed(decode))
            torch.set_num_threads(all_threads)
            began = time.perf_counter()
            rows = one_at_a_time(index, plain.eval(), transform)
            seconds.setdefault("single_seconds", []).append(time.perf_counter() - began)
        figures = {key: min(values) for key, values in seconds.items()}
        parts = figures["teacher_seconds"], figures["decode_seconds"]
        agreement = reports[-1].agreement
        column = open_column(data, "crops")
        made_rows = torch.from_numpy(column.take(np.flatnonzero(column.valid_all()))).float()
        cosines = torch.cosine_similarity(made_rows, rows)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            plain.encode_image(transform(Image.new("RGB", (64, 64))).unsqueeze(0))
        gflop = counter.get_total_flops() / 1e9
        line = {
            **{key: round(value, 4) for key, value in figures.items()},
            "ideal_ratio": round(max(parts) / figures["pipeline_seconds"], 3),
            "shared_ratio": round(sum(parts) / figures["pipeline_seconds"], 3),
            "speedup_vs_single": round(figures["single_seconds"] / figures["pipeline_seconds"], 2),
            "fast_cosine": None if agreement is None else round(agreement.median, 6),
            "cosine_least": round(float(cosines.min()), 6),
            "cosine_median": round(float(cosines.median()), 6),
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
    """Return model and weights for open_clip's factory; random weights take as long as trained ones."""
    if name == "shapeworld":
        return f"local-dir:{Path(__file__).resolve().parents[1] / 'shapeworld' / 'teacher'}", None
    model, _, weights = name.partition("/")
    return (name, None) if ":" in model else (model, None if weights.startswith("random:") else weights)


if __name__ == "__main__":
    main()
