"""A tiny CLIP in open_clip's local-dir format and a small data set of photos, for the columns' tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from cckt.cache_builder.index import build_index

CONCEPTS = ("cat", "bow_(weapon)", "traffic light", "spray_can")
WIDTH = 24


def tiny_config(**changes: Any) -> dict[str, Any]:
    """Return an open_clip model config: a ViT of one layer, 32 px, D = 24."""
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        **changes,
    }


def write_teacher(
    folder: Path, seed: int = 0, preprocess: dict[str, Any] | None = None, **changes: Any
) -> str:
    """Write an untrained teacher to `folder` as safetensors and config; return its name, "local-dir:...".

    Noise is added to biases and scales too, so that none is exactly zero.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(**changes)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}})
    )
    name = f"local-dir:{folder}"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(name, load_weights=False)
        state = {
            key: value + 0.02 * torch.randn_like(value) if value.is_floating_point() else value
            for key, value in model.state_dict().items()
        }
    save_file(state, folder / "open_clip_model.safetensors")
    return name


def write_photos(folder: Path, photos: int = 6, boxes: int = 5, seed: int = 0) -> Path:
    """Render photos of several sizes with boxes and index them; return the data-set folder.

    Every photo has `boxes` boxes of at least 16 px. In addition the first has a crowd and the second a box of
    15 px. The third has no box.
    """
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (folder / "photos").mkdir(parents=True)

    def annotate(image: int, box: list[float], crowd: int = 0) -> None:
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": 1 + len(annotations) % len(CONCEPTS),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
        )

    for number in range(photos):
        width, height = int(rng.integers(60, 120)), int(rng.integers(60, 120))
        name = f"{number:03d}.png"
        noise = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(
            folder / "photos" / name
        )
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for _ in range(boxes if number != 2 else 0):
            w, h = rng.uniform(16, width), rng.uniform(16, height)
            annotate(
                number,
                [float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h)), float(w), float(h)],
            )
        if number == 0:
            annotate(number, [3.0, 3.0, 40.0, 40.0], crowd=1)
        if number == 1:
            annotate(number, [5.5, 5.5, 15.0, 40.0])
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CONCEPTS)]
    (folder / "coco.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return index_photos(folder)


def index_photos(folder: Path) -> Path:
    """Build the index of the folder of `write_photos`, also again; return the data-set folder."""
    build_index(folder / "coco.json", folder / "photos", folder / "data", "all-base")
    return folder / "data"
