"""Measure the teacher of shapeworld and print one JSON line.

    python -m cckt.shapeworld.evaluate_teacher [TEACHER]

The figures are zero-shot top-1 over the 65 concepts, on clean crops (one complete object) and on crops of
images as they are, and existence in whole images by CLIP priors (docs/method/cckt_det.md, eqs. 1 and 5).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from PIL import Image

from cckt.cache_builder.base.constants import TAU
from cckt.cache_builder.quality.existence import existence_report
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.prompts import ENSEMBLE12
from cckt.shapeworld.pictographs import CONCEPTS, NOVEL
from cckt.shapeworld.scene import SIDE, Pixels, compose, render_photo

TEST_SEED = 0xE8A3
"""Seed of the test images; no data set of the quickstart and no training image has it."""
MIN_CROP = 16
"""Shortest side in pixels of an evaluated crop."""
BATCH = 256
"""Images that are embedded together."""


def evaluate_teacher(teacher: Teacher, *, crops: int = 1300, photos: int = 600) -> dict[str, Any]:
    """Return the figures of a teacher on test images; top-1, AP and F1 in [0, 1].

    crops: number of clean crops. photos: number of whole images.
    """
    text = _text_embeddings(teacher)
    clean, clean_rows = zip(*(_clean_crop(number) for number in range(crops)), strict=True)
    rendered = [render_photo(TEST_SEED, number) for number in range(photos)]
    found = [
        (_crop(photo.pixels, one.box_xyxy), CONCEPTS.index(one.name))
        for photo in rendered
        for one in photo.objects
        if min(one.box_xyxy[2] - one.box_xyxy[0], one.box_xyxy[3] - one.box_xyxy[1]) >= MIN_CROP
    ]
    presence = np.zeros((photos, len(CONCEPTS)), bool)
    for row, photo in enumerate(rendered):
        presence[row, [CONCEPTS.index(one.name) for one in photo.objects]] = True
    whole = _embed(teacher, [Image.fromarray(photo.pixels) for photo in rendered])
    priors = 1 / (1 + np.exp(-(whole @ text.T) / TAU))
    figures: dict[str, Any] = {
        "top1_clean": _top1(teacher, text, clean, clean_rows),
        "top1_photos": _top1(teacher, text, [crop for crop, _ in found], [row for _, row in found]),
    }
    novel = np.isin(CONCEPTS, list(NOVEL))
    splits = {"base": np.flatnonzero(~novel), "novel": np.flatnonzero(novel)}
    for split, report in existence_report(priors, presence, splits).items():
        figures[f"existence_{split}"] = report.to_json()
    return figures


def _clean_crop(number: int) -> tuple[Image.Image, int]:
    """Return a crop of one complete object of 32 pixels or more, and its concept row."""
    rng = np.random.default_rng((TEST_SEED, 1, number))
    while True:  # an object may find no room, or touch the edge
        row = number % len(CONCEPTS)
        photo = compose(rng, [CONCEPTS[row]], smallest=32)
        if photo.drawn:
            left, top, right, bottom = photo.drawn[0].box_xyxy
            if min(left, top) > 0 and max(right, bottom) < SIDE and max(right - left, bottom - top) >= 32:
                return _crop(photo.pixels, photo.drawn[0].box_xyxy), row


def _crop(pixels: Pixels, box: tuple[float, float, float, float]) -> Image.Image:
    return Image.fromarray(pixels).crop((int(box[0]), int(box[1]), int(box[2]), int(box[3])))


def _text_embeddings(teacher: Teacher) -> Any:
    """Return (65, D) unit text embeddings of the concepts (docs/method/cckt_det.md, eq. 1)."""
    ensemble = sum(teacher.encode_texts([t.format(name) for name in CONCEPTS]) for t in ENSEMBLE12)
    return ensemble / np.linalg.norm(ensemble, axis=1, keepdims=True)


def _embed(teacher: Teacher, images: list[Image.Image]) -> Any:
    """Return (n, D) unit embeddings of images."""
    ready = [teacher.preprocess(image) for image in images]
    import torch

    batches = [torch.stack(ready[start : start + BATCH]) for start in range(0, len(ready), BATCH)]
    return np.concatenate([teacher.encode_images(batch) for batch in batches])


def _top1(teacher: Teacher, text: Any, images: Any, rows: Any) -> float:
    return float(((_embed(teacher, list(images)) @ text.T).argmax(1) == np.array(rows)).mean())


def main() -> None:
    """Evaluate the teacher that is named on the command line."""
    name = sys.argv[1] if len(sys.argv) > 1 else "shapeworld"
    sys.stdout.write(json.dumps(evaluate_teacher(load_teacher(name))) + "\n")


if __name__ == "__main__":
    main()
