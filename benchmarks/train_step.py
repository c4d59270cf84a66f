"""A training step of the detector against transformers' Deformable DETR of the same size; waiting for data.

    python benchmarks/train_step.py [--repeats 5] [--threads 2] [--device cpu] [--precision fp32] [--compile]

Both sides: ResNet-50 (stem and first stage frozen, norms frozen, untrained), 4 levels, 6 + 6 layers of width
256, 300 queries with refined boxes, losses on every decoder layer, dropout 0.1 at the same places, 48
classes; the same photos of one size and the same boxes. A step is forward, matching, losses and backward; the
optimiser is not in it. Ours also carries the method: language queries, region embeddings of width 768, text
head and contrastive loss. Steps of both take turns. Then a run of the real trainer on JPEGs of 640 x 480,
read by `--workers` processes. Prints one JSON line:

    ratio_vs_transformers   median over the repeats of ours / theirs in the same turn; wanted: at most 0.67 on
                            2 CPU cores, at most 0.5 in bf16 on a GPU
    ratio_cpu_seconds       the same in seconds of this process on the CPU (with --threads 1 and
                            OMP_NUM_THREADS=1 it bears a busy machine); null on a GPU
    ours_s, theirs_s        median seconds of a step
    ours_trainable, theirs_trainable   parameters with a gradient
    data_wait_share         of the trainer's step time (its first window, where workers start, left out) spent
                            waiting for a batch; wanted: under 0.03. null with --data-steps 0
    device, threads, precision, load, and what else was asked for

`--images FOLDER --annotations FILE` takes real photos (COCO format) for the last figure.
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
from cckt.detector.students.backbone import Backbone
from cckt.detector.students.build import build_student
from cckt.detector.students.contract import PresentText
from cckt.detector.students.targets import Targets, TeacherRows, pad_targets

CLASSES, WIDTH, OBJECTS = 48, 768, 7
Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile both models")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], help="height and width")
    parser.add_argument("--set", action="append", default=[], help="a.b=value, for our side")
    parser.add_argument("--data-steps", type=int, default=12, help="0 leaves the data out")
    parser.add_argument("--data-batch", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--annotations", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        config = untrained(Path(folder), given)
        answer: dict[str, Any] = compare(config, given) if given.repeats else {}
        answer["data_wait_share"] = data_wait(config, Path(folder), given) if given.data_steps else None
    device = torch.cuda.get_device_name() if given.device.startswith("cuda") else f"cpu x {os.cpu_count()}"
    answer |= {"device": device, "threads": given.threads, "precision": given.precision, "load": load}
    answer |= {"batch": given.batch, "size": given.size, "compile": given.compile, "repeats": given.repeats}
    print(json.dumps(answer | {"workers": given.workers, "torch": torch.__version__}))


def untrained(folder: Path, given: argparse.Namespace) -> Config:
    """The recipe with random weights in a file: they freeze stages and norms as pretrained ones do."""
    torch.manual_seed(0)
    weights = folder / "backbone.safetensors"
    plain = Backbone(
        apply_overrides(recipe("coco-48-17-r50"), [*given.set, "model.backbone_weights=none"]).model
    )
    save_file({name: value.contiguous() for name, value in plain.net.state_dict().items()}, weights)
    sides = [f"data.short_sides={min(given.size)}", f"data.max_side={max(given.size)}"]
    sides.append(f"data.eval_short_side={min(given.size)}")
    options = [f"model.backbone_weights={weights}", "terms.region_contrast.first_epoch=0", *sides, *given.set]
    return apply_overrides(recipe("coco-48-17-r50"), options)


def compare(config: Config, given: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of both, taking turns."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(given.batch, 3, *given.size, generator=generator).to(given.device)
    corner = torch.rand(given.batch, OBJECTS, 2, generator=generator) * 0.6
    side = torch.rand(given.batch, OBJECTS, 2, generator=generator) * 0.3 + 0.05
    boxes = torch.cat([corner + side / 2, side], -1).to(given.device)
    labels = torch.randint(0, CLASSES, (given.batch, OBJECTS), generator=generator).to(given.device)
    ours, ours_trainable = our_step(config, given, images, boxes, labels)
    theirs, theirs_trainable = their_step(config.model, given, images, boxes, labels)
    for step in (ours, theirs):  # allocators, kernels and, where asked for, compilation
        seconds(step)
        seconds(step)
    turns = [(seconds(ours), seconds(theirs)) for _ in range(given.repeats)]
    ratios = sorted(mine[0] / other[0] for mine, other in turns)
    busy = statistics.median(mine[1] / other[1] for mine, other in turns)
    return {
        "ratio_vs_transformers": round(statistics.median(ratios), 3),
        "ratio_cpu_seconds": None if given.device.startswith("cuda") else round(busy, 3),
        "ratio_least_most": [round(ratios[0], 3), round(ratios[-1], 3)],
        "ours_s": round(statistics.median(mine[0] for mine, _ in turns), 4),
        "theirs_s": round(statistics.median(other[0] for _, other in turns), 4),
        "ours_trainable": ours_trainable,
        "theirs_trainable": theirs_trainable,
    }


def seconds(step: Step) -> tuple[float, float]:
    """Wall seconds of a step, the device's work included, and this process's seconds on the CPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began, busy = time.perf_counter(), time.process_time()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - busy


def precision(given: argparse.Namespace) -> Any:
    """Autocast, where asked for."""
    kind = given.device.partition(":")[0]
    return torch.autocast(kind, torch.bfloat16) if given.precision == "bf16" else nullcontext()


def our_step(
    config: Config, given: argparse.Namespace, images: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Step, int]:
    """Our model as the trainer runs it."""
    model = build_student(config, WIDTH).to(given.device).train()
    model.prepare_training(checkpoint_activations=False)
    objective = Objective(config, WIDTH, extra_regions=model.has_extra_regions)
    run: Any = torch.compile(model) if given.compile else model
    text = torch.nn.functional.normalize(torch.randn(CLASSES, WIDTH), dim=1).to(given.device)
    crops = torch.nn.functional.normalize(torch.randn(*labels.shape, WIDTH), dim=-1).to(given.device)
    valid = torch.ones(OBJECTS, dtype=torch.bool, device=given.device)
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
        with precision(given):
            output = run(images, None, text, present)
        pairs = model.match(output, targets, text)
        detection = model.detection_loss(output, targets, pairs, None, None)
        epoch = config.terms["region_contrast"].first_epoch
        objective(output, pairs, detection, targets, epoch=epoch)["total"].backward()

    return step, trainable(model)


def their_step(
    config: ModelConfig, given: argparse.Namespace, images: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Step, int]:
    """transformers' model; its matching and losses are in its forward."""
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
    for name, parameter in model.model.backbone.named_parameters():  # it does so for its own ResNet only
        parameter.requires_grad_(any(stage in name for stage in ("layer2", "layer3", "layer4")))
    model.to(given.device).train()
    run: Any = torch.compile(model) if given.compile else model
    goals = [{"boxes": one, "class_labels": row} for one, row in zip(boxes, labels, strict=True)]

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with precision(given):
            loss = run(pixel_values=images, labels=goals).loss
        loss.backward()

    return step, trainable(model)


def trainable(model: torch.nn.Module) -> int:
    """Parameters with a gradient."""
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def data_wait(config: Config, folder: Path, given: argparse.Namespace) -> float:
    """Share of the trainer's step time spent waiting for a batch."""
    from cckt.detector.training.train import train

    data = folder / "data"
    images, annotations = given.images, given.annotations
    if images is None or annotations is None:
        images, annotations = photos(data, max(24, given.data_batch)), data / "annotations.json"
    build_index(annotations, images, data, split="all-base", keep="base")
    index = open_index(data)
    random_column(data, "text", "concepts", len(index.concepts), "float32", index.digest)
    random_column(data, "crops", "boxes", len(index.box_xyxy), "float16", index.digest)
    window = max(1, given.data_steps // 3)
    options = [f"train.batch={given.data_batch}", f"data.workers={given.workers}", "data.cache_photos=0"]
    options += [f"train.log_every={window}", f"train.device={given.device}", "train.epochs=100000"]
    options += [f"train.precision={given.precision}", f"train.compile={str(given.compile).lower()}"]
    run = folder / "run"
    train(apply_overrides(config, options), data, None, run, max_steps=3 * window)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    parts = ("data", "forward", "matching", "loss", "backward", "update")
    times = [{part: line[f"seconds_{part}"] for part in parts} for line in lines if line["kind"] == "train"][
        1:
    ]
    return round(sum(one["data"] for one in times) / sum(sum(one.values()) for one in times), 5)


def photos(folder: Path, count: int) -> Path:
    """JPEGs of 640 x 480 with the detail of photos (about 100 kB), and annotations.json."""
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
    """A finished column of unit noise: what is in it does not change how long it is read."""
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
