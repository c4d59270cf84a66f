"""Compare a training step with that of transformers' Deformable DETR of the same size.

Claims: at most 0.67 of the peer's time on 2 CPU cores, at most 0.5 in bf16 on a GPU; training waits for data
less than 3% of the time.
Peer: DeformableDetrForObjectDetection of transformers.

    python benchmarks/train_step.py [--repeats 5] [--threads 2] [--device cpu] [--precision fp32] [--compile]
        [--images FOLDER --annotations FILE]

Both models have an untrained ResNet-50 (stem, first stage and norms frozen), 4 levels, 6 + 6 layers of width
256, 300 queries with refined boxes, losses on every decoder layer, dropout 0.1 at the same places, and 48
classes. They get the same images of one size and the same boxes. A step is forward, matching, losses and
backward, without the optimiser. Ours also has the method: language queries, region embeddings of width 768,
text head and contrastive loss. The steps alternate. Then the trainer runs on JPEGs of 640 x 480, or on
--images with COCO --annotations, read by --workers processes. Prints one JSON line:

    ratio_vs_transformers   median over the repeats of our time / theirs; ratio_least_most: the extremes
    ratio_cpu_seconds       the median in CPU seconds of this process; other load on the machine affects it
                            little with --threads 1 and OMP_NUM_THREADS=1; null on a GPU
    ours_s, theirs_s, ours_trainable, theirs_trainable      median seconds of a step; trainable parameters
    data_wait_share         share of the trainer's step time spent waiting for a batch, without the first
                            logged window, in which the workers start; null with --data-steps 0
    device, threads, precision, load, batch, size, compile, repeats, workers, torch
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, TimmBackboneConfig

from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.store import ColumnSpec, open_writer
from cckt.detector.config.config import Config, ModelConfig, apply_overrides
from cckt.detector.config.recipes import recipe
from cckt.detector.losses.objective import Objective
from cckt.detector.students.backbones.backbone import Backbone
from cckt.detector.students.build import build_student
from cckt.detector.students.contract import PresentText
from cckt.detector.students.targets import Targets, TeacherRows, pad_targets

CLASSES, WIDTH, OBJECTS = 48, 768, 7
Step = Callable[[], None]


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile both models")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], help="height and width")
    parser.add_argument("--set", action="append", default=[], help="option a.b=value of our model")
    parser.add_argument("--data-steps", type=int, default=12, help="0 skips data_wait_share")
    parser.add_argument("--data-batch", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--annotations", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        config = untrained_config(Path(folder), options)
        figures: dict[str, Any] = compare(config, options) if options.repeats else {}
        figures["data_wait_share"] = data_wait(config, Path(folder), options) if options.data_steps else None
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"cpu x {os.cpu_count()}"
    figures |= {"device": device, "threads": options.threads, "precision": options.precision, "load": load}
    figures |= {
        "batch": options.batch,
        "size": options.size,
        "compile": options.compile,
        "repeats": options.repeats,
    }
    print(json.dumps(figures | {"workers": options.workers, "torch": torch.__version__}))


def untrained_config(folder: Path, options: argparse.Namespace) -> Config:
    """Return the recipe with random backbone weights in a file.

    Weights from a file freeze stages and norms, as pretrained weights do.
    """
    torch.manual_seed(0)
    weights = folder / "backbone.safetensors"
    plain = Backbone(
        apply_overrides(recipe("coco-48-17-r50"), [*options.set, "model.backbone_weights=none"]).model
    )
    save_file({name: value.contiguous() for name, value in plain.net.state_dict().items()}, weights)
    sides = [f"data.short_sides={min(options.size)}", f"data.max_side={max(options.size)}"]
    sides.append(f"data.eval_short_side={min(options.size)}")
    contrast = "terms.region_contrast.first_epoch=0"
    overrides = [f"model.backbone_weights={weights}", contrast, *sides, *options.set]
    return apply_overrides(recipe("coco-48-17-r50"), overrides)


def compare(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of alternating steps of both models."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 3, *options.size, generator=generator).to(options.device)
    corner = torch.rand(options.batch, OBJECTS, 2, generator=generator) * 0.6
    side = torch.rand(options.batch, OBJECTS, 2, generator=generator) * 0.3 + 0.05
    boxes = torch.cat([corner + side / 2, side], -1).to(options.device)
    labels = torch.randint(0, CLASSES, (options.batch, OBJECTS), generator=generator).to(options.device)
    ours, ours_trainable = our_step(config, options, images, boxes, labels)
    theirs, theirs_trainable = their_step(config.model, options, images, boxes, labels)
    for step in (ours, theirs):  # allocate memory, select kernels, compile with --compile
        seconds(step)
        seconds(step)
    turns = [(seconds(ours), seconds(theirs)) for _ in range(options.repeats)]
    ratios = sorted(own[0] / other[0] for own, other in turns)
    cpu_ratio = statistics.median(own[1] / other[1] for own, other in turns)
    return {
        "ratio_vs_transformers": round(statistics.median(ratios), 3),
        "ratio_cpu_seconds": None if options.device.startswith("cuda") else round(cpu_ratio, 3),
        "ratio_least_most": [round(ratios[0], 3), round(ratios[-1], 3)],
        "ours_s": round(statistics.median(own[0] for own, _ in turns), 4),
        "theirs_s": round(statistics.median(other[0] for _, other in turns), 4),
        "ours_trainable": ours_trainable,
        "theirs_trainable": theirs_trainable,
    }


def seconds(step: Step) -> tuple[float, float]:
    """Return the wall seconds of a step with the work of the device, and the CPU seconds of this process."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began, cpu = time.perf_counter(), time.process_time()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - cpu


def precision(options: argparse.Namespace) -> Any:
    """Return the autocast context of --precision."""
    kind = options.device.partition(":")[0]
    return torch.autocast(kind, torch.bfloat16) if options.precision == "bf16" else nullcontext()


def our_step(
    config: Config, options: argparse.Namespace, images: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Step, int]:
    """Return a step of our model as the trainer runs it, and its trainable parameters."""
    model = build_student(config, WIDTH).to(options.device).train()
    model.prepare_training(checkpoint_activations=False)
    objective = Objective(config, WIDTH, extra_regions=model.has_extra_regions)
    run: Any = torch.compile(model) if options.compile else model
    text = torch.nn.functional.normalize(torch.randn(CLASSES, WIDTH), dim=1).to(options.device)
    crops = torch.nn.functional.normalize(torch.randn(*labels.shape, WIDTH), dim=-1).to(options.device)
    valid = torch.ones(OBJECTS, dtype=torch.bool, device=options.device)
    targets = pad_targets(
        [
            Targets(places, concepts, {"crop": TeacherRows(rows, valid)})
            for places, concepts, rows in zip(boxes, labels, crops, strict=True)
        ]
    )
    present = PresentText.gather(text, [one.unique() for one in labels])
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with precision(options):
            output = run(images, None, text, present)
        pairs = model.match(output, targets, text)
        detection = model.detection_loss(output, targets, pairs, None, None)
        epoch = config.terms["region_contrast"].first_epoch
        objective(output, pairs, detection, targets, epoch=epoch)["total"].backward()

    return step, trainable(model)


def their_step(
    config: ModelConfig, options: argparse.Namespace, images: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Step, int]:
    """Return a step of transformers' model, which matches and computes losses in its forward pass."""
    backbone = TimmBackboneConfig(
        backbone=config.backbone, out_indices=[2, 3, 4], use_pretrained_backbone=False
    )
    model = DeformableDetrForObjectDetection(
        DeformableDetrConfig(
            backbone_config=backbone,
            num_labels=CLASSES,
            num_queries=config.queries,
            num_feature_levels=config.levels,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_ffn_dim=config.ffn,
            decoder_ffn_dim=config.ffn,
            d_model=config.hidden,
            with_box_refine=True,
            auxiliary_loss=True,
            dropout=config.dropout,
            activation_dropout=config.dropout,
        )
    )
    for (
        name,
        parameter,
    ) in model.model.backbone.named_parameters():  # transformers freezes stages of its own ResNet only
        parameter.requires_grad_(any(stage in name for stage in ("layer2", "layer3", "layer4")))
    model.to(options.device).train()
    run: Any = torch.compile(model) if options.compile else model
    targets = [{"boxes": one, "class_labels": row} for one, row in zip(boxes, labels, strict=True)]

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with precision(options):
            loss = run(pixel_values=images, labels=targets).loss
        loss.backward()

    return step, trainable(model)


def trainable(model: torch.nn.Module) -> int:
    """Return the number of parameters with a gradient."""
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def data_wait(config: Config, folder: Path, options: argparse.Namespace) -> float:
    """Return the share of the trainer's step time spent waiting for a batch."""
    from cckt.detector.training.train import train

    data = folder / "data"
    images, annotations = options.images, options.annotations
    if images is None or annotations is None:
        images, annotations = make_photos(data, max(24, options.data_batch)), data / "annotations.json"
    build_index(annotations, images, data, split="all-base", keep="base")
    index = open_index(data)
    random_column(data, "text", "concepts", len(index.concepts), "float32", index.digest)
    random_column(data, "crops", "boxes", len(index.box_xyxy), "float16", index.digest)
    window = max(1, options.data_steps // 3)
    values = {"batch": options.data_batch, "log_every": window, "epochs": 100_000, "device": options.device}
    values |= {"precision": options.precision, "compile": str(options.compile).lower()}
    overrides = [f"train.{name}={value}" for name, value in values.items()]
    overrides += [f"data.workers={options.workers}", "data.cache_photos=0"]
    run = folder / "run"
    train(apply_overrides(config, overrides), data, None, run, max_steps=3 * window)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    parts = ("data", "forward", "matching", "loss", "backward", "update")
    windows = [line for line in lines if line["kind"] == "train"][1:]
    total = sum(line[f"seconds_{part}"] for line in windows for part in parts)
    return round(sum(line["seconds_data"] for line in windows) / total, 5)


def make_photos(folder: Path, count: int) -> Path:
    """Write JPEGs of 640 x 480 (about 100 kB each) and annotations.json; return the folder of the images."""
    random = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    rows, boxes = [], []
    for k in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((640, 480))
        grain = random.normal(0, 12, (480, 640, 3))
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{k}.jpg", quality=90)
        rows.append({"id": k + 1, "file_name": f"{k}.jpg", "width": 640, "height": 480})
        for _ in range(OBJECTS):
            x, y, w, h = (int(one) for one in random.integers([0, 0, 40, 40], [440, 280, 200, 200]))
            box = {"id": len(boxes) + 1, "image_id": k + 1, "bbox": [x, y, w, h], "area": w * h}
            boxes.append(box | {"category_id": int(random.integers(1, CLASSES + 1)), "iscrowd": 0})
    categories = [{"id": c + 1, "name": f"thing {c}"} for c in range(CLASSES)]
    (folder / "annotations.json").write_text(
        json.dumps({"images": rows, "annotations": boxes, "categories": categories})
    )
    return folder / "photos"


def random_column(data: Path, name: str, table: str, rows: int, dtype: str, digest: str) -> None:
    """Write a column of random unit rows; its values do not affect the time."""
    recipe_of = {"teacher": {"name": "noise", "weight_digest": "sha256:noise"}}
    spec = ColumnSpec(
        name=name,
        table=table,
        rows=rows,
        width=WIDTH,
        dtype=dtype,
        unit=True,
        has_valid=name == "crops",
        index_digest=digest,
        recipe=recipe_of,
    )
    writer, random = open_writer(data, spec), np.random.default_rng(1)
    for chunk in range(writer.n_chunks):
        low, high = writer.bounds(chunk)
        values = random.standard_normal((high - low, WIDTH))
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        valid = np.ones(high - low, bool) if name == "crops" else None
        writer.write(chunk, values.astype(dtype), valid)
    writer.finish()


if __name__ == "__main__":
    main()
