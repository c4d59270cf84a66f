"""What the teacher knows, measured: `python -m cckt.shapeworld.examine [TEACHER]` prints one JSON line.

Zero-shot top-1 over the 65 concepts on clean held-out cut-outs (one thing by itself, unoccluded) and on
cut-outs of photos as they are; and existence in whole held-out photos, by the priors of METHOD section 3.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from PIL import Image

from cckt.cache_builder.quality.existence import existence_report
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.prompts import ENSEMBLE12
from cckt.shapeworld.pictographs import CONCEPTS, NOVEL
from cckt.shapeworld.scene import SIDE, Pixels, compose, photo

EXAM_SEED = 0xE8A3  # apart from every data set of the quickstart and from the reading


def examine(teacher: Teacher, *, cutouts: int = 1300, photos: int = 600) -> dict[str, Any]:
    """The figures of `teacher` on pictures it has not seen; top-1, mAP and F1 in [0, 1]."""
    text = _text(teacher)
    clean, clean_rows = zip(*(_alone(number) for number in range(cutouts)), strict=True)
    pages = [photo(EXAM_SEED, number) for number in range(photos)]
    found = [
        (_cut(page.pixels, thing.box_xyxy), CONCEPTS.index(thing.name))
        for page in pages
        for thing in page.objects
        if min(thing.box_xyxy[2] - thing.box_xyxy[0], thing.box_xyxy[3] - thing.box_xyxy[1]) >= 16
    ]
    presence = np.zeros((photos, len(CONCEPTS)), bool)
    for row, page in enumerate(pages):
        presence[row, [CONCEPTS.index(thing.name) for thing in page.objects]] = True
    whole = _see(teacher, [Image.fromarray(page.pixels) for page in pages])
    priors = 1 / (1 + np.exp(-(whole @ text.T) / 0.07))
    figures: dict[str, Any] = {
        "top1_clean": _top1(teacher, text, clean, clean_rows),
        "top1_photos": _top1(teacher, text, [p for p, _ in found], [row for _, row in found]),
    }
    novel = np.isin(CONCEPTS, list(NOVEL))
    splits = {"base": np.flatnonzero(~novel), "novel": np.flatnonzero(novel)}
    for split, report in existence_report(priors, presence, splits, rho=0.70, limit=6).items():
        figures[f"existence_{split}"] = report.to_json()
    return figures


def _alone(number: int) -> tuple[Image.Image, int]:
    rng = np.random.default_rng((EXAM_SEED, 1, number))
    while True:  # a thing may find no place for itself
        row = number % len(CONCEPTS)
        page = compose(rng, [CONCEPTS[row]], smallest=32)
        if page.things:
            left, top, right, bottom = page.things[0].box_xyxy
            if min(left, top) > 0 and max(right, bottom) < SIDE and max(right - left, bottom - top) >= 32:
                return _cut(page.pixels, page.things[0].box_xyxy), row


def _cut(pixels: Pixels, box: tuple[float, float, float, float]) -> Image.Image:
    return Image.fromarray(pixels).crop((int(box[0]), int(box[1]), int(box[2]), int(box[3])))


def _text(teacher: Teacher) -> Any:
    ensemble = sum(teacher.encode_texts([t.format(name) for name in CONCEPTS]) for t in ENSEMBLE12)
    return ensemble / np.linalg.norm(ensemble, axis=1, keepdims=True)


def _see(teacher: Teacher, pictures: list[Image.Image]) -> Any:
    ready = [teacher.preprocess(picture) for picture in pictures]
    import torch

    batches = [torch.stack(ready[at : at + 256]) for at in range(0, len(ready), 256)]
    return np.concatenate([teacher.encode_images(batch) for batch in batches])


def _top1(teacher: Teacher, text: Any, pictures: Any, rows: Any) -> float:
    return float(((_see(teacher, list(pictures)) @ text.T).argmax(1) == np.array(rows)).mean())


def main() -> None:
    """The command line."""
    name = sys.argv[1] if len(sys.argv) > 1 else "shapeworld"
    sys.stdout.write(json.dumps(examine(load_teacher(name))) + "\n")


if __name__ == "__main__":
    main()
