"""A tiny rendered data set with columns in the real store, and configs, for tests."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cckt.cache_builder.index import Index, build_index, open_index
from cckt.cache_builder.store import ColumnSpec, open_writer
from cckt.detector.config.config import Config, apply_overrides

WIDTH = 16
CONCEPTS = 6


def render(
    folder: Path, photos: int = 6, sizes: Sequence[tuple[int, int]] = ((64, 64),), seed: int = 0
) -> Path:
    """Photos (width, height) of rectangles as PNG, and annotations.json.

    Photo k has k % 4 boxes and, if that is 2, a crowd; the first photo has none. Categories 1..6; 1..4 are
    base. From photo 5 on each also has a tiny box, too small for a crop embedding.
    """
    rng = np.random.default_rng(seed)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for k in range(photos):
        width, height = sizes[k % len(sizes)]
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        images.append({"id": 10 + k, "file_name": f"p{k}.png", "width": width, "height": height})
        boxes = [(*rng.integers(0, 30, 2), *rng.integers(16, 30, 2), 0) for _ in range(k % 4)]
        boxes += [(1, 1, 20, 20, 1)] if k % 4 == 2 else []
        boxes += [(40, 40, 6, 5, 0)] if k >= 5 else []
        for x, y, w, h, crowd in boxes:
            category = int(rng.integers(1, 5))
            pixels[y : y + h, x : x + w] = 60 * category - 1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + k,
                    "category_id": category,
                    "bbox": [int(x), int(y), int(w), int(h)],
                    "area": int(w * h),
                    "iscrowd": crowd,
                }
            )
        Image.fromarray(pixels).save(folder / "photos" / f"p{k}.png")
    categories = [{"id": c, "name": f"thing {c}"} for c in range(1, CONCEPTS + 1)]
    annotated = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(annotated))
    split = {"base": [1, 2, 3, 4], "novel": [5, 6]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def make_data(folder: Path, photos: int = 6, sizes: Sequence[tuple[int, int]] = ((64, 64),)) -> Path:
    """Make a data set with index, text and crops; return its folder."""
    render(folder, photos, sizes)
    build_index(
        folder / "annotations.json", folder / "photos", folder, split=folder / "split.json", keep="base"
    )
    index = open_index(folder)
    write_column(folder, index, "text", unit_rows(CONCEPTS, 1))
    sides = index.box_xyxy[:, 2:] - index.box_xyxy[:, :2]
    valid = (sides >= 16).all(1) & ~index.iscrowd
    write_column(folder, index, "crops", unit_rows(len(valid), 2) * valid[:, None], valid)
    return folder


def unit_rows(rows: int, seed: int, width: int = WIDTH) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def write_column(
    folder: Path,
    index: Index,
    name: str,
    values: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    teacher: str = "tiny/random:0",
    index_digest: str | None = None,
    finish: bool = True,
) -> None:
    spec = ColumnSpec(
        name=name,
        table={"text": "concepts", "crops": "boxes"}.get(name.partition("-")[0], "images x concepts"),
        rows=len(values),
        width=values.shape[1],
        dtype="float16" if name.startswith("crops") else "float32",
        unit=name.startswith(("text", "crops")),
        has_valid=valid is not None,
        index_digest=index.digest if index_digest is None else index_digest,
        recipe={"teacher": {"name": teacher, "weight_digest": f"sha256:{teacher}"}},
    )
    writer = open_writer(folder, spec, overwrite=True)
    for chunk in writer.missing():
        lo, hi = writer.bounds(chunk)
        dtype = np.dtype(spec.dtype)
        writer.write(chunk, values[lo:hi].astype(dtype), None if valid is None else valid[lo:hi])
    if finish:
        writer.finish()


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def tiny_config(*assignments: str) -> Config:
    """Return the config of a tiny detector that trains in milliseconds, with options changed."""
    small = [
        "recipe=tiny",
        "model.backbone=test_resnet",
        "model.backbone_weights=none",
        "model.strides=8,16",
        "model.levels=3",
        "model.hidden=32",
        "model.heads=2",
        "model.points=2",
        "model.encoder_layers=1",
        "model.decoder_layers=2",
        "model.ffn=32",
        "model.queries=8",
        "terms.region_contrast.first_epoch=1",
        "data.short_sides=48,64",
        "data.max_side=96",
        "data.eval_short_side=64",
        "data.workers=0",
        "train.epochs=3",
        "train.batch=2",
        "train.log_every=1",
        "train.lr_drop_epoch=2",
        "train.device=cpu",
    ]
    return apply_overrides(Config(), [*small, *assignments])
