"""Small data sets, runs and random detections for tests of evaluation and inference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.index import Index, build_index, open_index
from cckt.cache_builder.store import ColumnSpec, open_writer
from cckt.detector.config.config import (
    Config,
    DataConfig,
    GuidanceConfig,
    InferenceConfig,
    ModelConfig,
    TrainConfig,
    changed,
    save_config,
)
from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.inference.inference_model import InferenceModel
from cckt.detector.runs.run_folder import Facts
from cckt.detector.runs.weights import load_weights, save_weights
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import PresentText
from cckt.detector.students.deformable_detr.model import DeformableDETR

WIDTH = 16
NAMES = ("cat", "dog", "kite", "boat")
TEACHER = {"teacher": {"name": "small", "architecture": "small", "weight_digest": "sha256:aa"}}


def random_truth(
    rng: np.random.Generator, photos: int, concepts: int, boxes: int, federated: bool = False
) -> GroundTruth:
    """Return boxes of all sizes, with crowds or (federated) negative and not exhaustive pairs."""
    images, numbers = np.sort(rng.integers(photos, size=boxes)), rng.integers(concepts, size=boxes)
    sides = rng.choice([12.0, 50.0, 150.0], (boxes, 1)) * rng.uniform(0.6, 1.4, (boxes, 2))
    xywh = np.concatenate([rng.uniform(0, 60, (boxes, 2)), sides], 1)
    annotated = np.zeros((photos, concepts), bool)
    annotated[images, numbers] = True
    negative = (rng.random((photos, concepts)) < 0.3) & ~annotated
    partial = (rng.random((photos, concepts)) < 0.3) & annotated
    return GroundTruth(
        image_ids=np.arange(photos) * 7 + 3,
        widths=np.full(photos, 256),
        heights=np.full(photos, 256),
        concept_rows=np.arange(concepts),
        category_ids=np.arange(concepts) * 3 + 2,
        names=tuple(f"concept {c}" for c in range(concepts)),
        splits=tuple("novel" if c % 3 == 0 else "base" for c in range(concepts)),
        frequencies=tuple("rcf"[c % 3] if federated else "" for c in range(concepts)),
        images=images,
        concepts=numbers,
        boxes_xywh=xywh,
        areas=xywh[:, 2] * xywh[:, 3] * rng.uniform(0.5, 1.0, boxes),
        crowd=(rng.random(boxes) < 0.15) & (not federated),
        negative=negative if federated else None,
        not_exhaustive=partial if federated else None,
    )


def random_found(rng: np.random.Generator, truth: GroundTruth, count: int) -> LocatedDetections:
    """Return detections near boxes and elsewhere, with equal scores, wrong concepts and duplicates."""
    source = rng.integers(len(truth.images), size=count) if len(truth.images) else np.zeros(count, int)
    near = truth.boxes_xywh[source] if len(truth.images) else rng.uniform(5, 90, (count, 4))
    xywh = near + rng.normal(0, 4, (count, 4))
    xywh[:, 2:] = np.abs(xywh[:, 2:])
    photos, concepts = len(truth.image_ids), len(truth.names)
    stays = (rng.random(count) < 0.8) & (len(truth.images) > 0)
    own = (truth.images[source], truth.concepts[source]) if len(truth.images) else (source, source)
    return LocatedDetections(
        np.where(stays, own[0], rng.integers(photos, size=count)),
        np.where(stays, own[1], rng.integers(concepts, size=count)),
        rng.choice([0.1, 0.25, 0.25, 0.5, 0.7, 0.9], count) + rng.choice([0, 0.01], count),
        xywh,
    )


def make_data(folder: Path, *, photos: int = 3, crowd: bool = False) -> Index:
    """Write an index of photos of 40 x 32 px; photo k (id 10 + k) has a box of each of the first k concepts.

    cat and dog are base, kite novel, boat other. The first photo has no box.
    """
    images = folder / "images"
    images.mkdir(parents=True)
    records, boxes = [], []
    for k in range(photos):
        Image.new("RGB", (40, 32), (40 * k, 90, 120)).save(images / f"{k}.png")
        records.append({"id": 10 + k, "file_name": f"{k}.png", "width": 40, "height": 32})
        for c in range(min(k, len(NAMES))):
            box = [10.0 * c, 4.0 + k, 8.0, 12.0]
            flags = {"iscrowd": int(crowd and c == 0), "area": 96.0}
            boxes.append(
                {"id": len(boxes) + 1, "image_id": 10 + k, "category_id": c + 1, "bbox": box, **flags}
            )
    categories = [{"id": c + 1, "name": name} for c, name in enumerate(NAMES)]
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps({"images": records, "annotations": boxes, "categories": categories}))
    split = folder / "split.json"
    split.write_text(json.dumps({"base": ["cat", "dog"], "novel": ["kite"]}))
    build_index(annotations, images, folder / "data", split)
    return open_index(folder / "data")


def unit_rows(rows: int, seed: int = 0) -> np.ndarray:
    """Return (rows, WIDTH) float32 random unit vectors."""
    values = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def add_column(index: Index, name: str, values: np.ndarray, recipe: dict[str, object] | None = None) -> None:
    """Write a complete column."""
    table = "concepts" if name == "text" else "images x concepts"
    spec = ColumnSpec(
        name=name,
        table=table,
        rows=len(values),
        width=values.shape[1],
        dtype="float32",
        unit=name == "text",
        has_valid=False,
        chunk_rows=64,
        index_digest=index.digest,
        recipe=dict(TEACHER if recipe is None else recipe),
    )
    writer = open_writer(index.folder, spec, overwrite=True)
    for chunk in writer.missing():
        low, high = writer.bounds(chunk)
        writer.write(chunk, values[low:high], None)
    writer.finish()


def small_config(*, guidance: bool = True, **model: object) -> Config:
    """Return the config of a detector with a few thousand weights."""
    return Config(
        recipe="test",
        model=ModelConfig(
            backbone="regnetx_002",
            backbone_weights="none",
            strides=(16, 32),
            levels=2,
            hidden=32,
            heads=2,
            points=2,
            encoder_layers=1,
            decoder_layers=1,
            ffn=32,
            dropout=0.0,
            queries=6,
            **model,  # type: ignore[arg-type]
        ),
        guidance=GuidanceConfig(enabled=guidance),
        data=DataConfig(short_sides=(32,), max_side=64, eval_short_side=32, workers=1),
        train=TrainConfig(),
        inference=InferenceConfig(batch=2, top=10),
    )


def make_run(folder: Path, config: Config, recipe: dict[str, object] | None = None) -> Path:
    """Write an untrained run folder."""
    folder.mkdir(parents=True)
    recipe = dict(TEACHER if recipe is None else recipe)
    Facts(WIDTH, 2, ["cat", "dog"], [1, 2], "sha256:index", recipe, recipe).save(folder)
    save_config(config, folder / "config.toml")
    save_weights(folder / "model.safetensors", DeformableDETR(config, WIDTH).state_dict())
    return folder


def make_deep_run(folder: Path) -> Path:
    """Write a run with three decoder layers whose boxes, logits and region embeddings all differ."""
    run = make_run(folder, changed(small_config(), "model", decoder_layers=3))
    generator = torch.Generator().manual_seed(0)
    weights = load_weights(run / "model.safetensors")
    noisy = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and "backbone" not in name
        else value
        for name, value in weights.items()
    }
    save_weights(run / "model.safetensors", noisy)
    return run


def layers_of(
    model: InferenceModel, images: list[Tensor], text: Tensor, present: list[list[int]]
) -> tuple[Tensor, Tensor]:
    """Return boxes (L, B, N, 4) xyxy in fractions and similarity scores (L, B, N, C) of all layers."""
    with torch.no_grad():
        rows = [torch.tensor(one, dtype=torch.int64) for one in present]
        guidance = PresentText.gather(text, rows)
        output = model.model.decode(model.encode(images), text, guidance)
    cosine = output.region @ text.T
    assert len(output.boxes) == 3
    return to_xyxy(output.boxes), torch.sigmoid(cosine / model.config.model.tau)
