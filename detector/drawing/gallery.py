"""What a detector finds that nobody annotated for it, as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index
from cckt.cache_builder.photos import load_photo
from cckt.detector.drawing.draw import STAR, Tile, contact_sheet, draw_prediction, marks_of
from cckt.detector.inference.predict import Detector
from cckt.detector.inference.prediction import Prediction

LOOKED_AT, SHOWN, SINGLES = 96, 12, 6
"""Photos predicted for the pictures, photos on the contact sheet, and pictures of one photo."""


def draw_finds(out: Path, detector: Detector, index: Index, progress: Progress) -> list[Path]:
    """Pictures of what it finds in photos that hold something novel; the contact sheet is the first.

    Of the first LOOKED_AT such photos those with the most confident novel find are shown.
    """
    novel = index.concepts.in_split("novel")[index.box_concepts]  # (M,) bool
    rows = [row for row in range(len(index)) if novel[index.boxes_of(row)].any()]
    rows = rows[:LOOKED_AT]
    if not rows:
        return []
    found: list[tuple[int, Prediction]] = []
    progress.start("detect", len(rows), "photos")
    stream = detector.stream([index.photo_path(row) for row in rows], index.concepts)
    for row, prediction in zip(rows, stream, strict=True):
        found.append((row, prediction.distinct()))
        progress.advance()
    progress.finish()
    found.sort(key=lambda pair: -float(pair[1].scores[pair[1].novel].max(initial=0)))
    out.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(
        [_tile(index, row, prediction) for row, prediction in found[:SHOWN]],
        columns=4,
        cell=300,
        title="Found without ever having been annotated",
        subtitle=f"the most confident novel finds in {len(rows)} held-out photos",
    )
    pictures = [out / "sheet.png"]
    sheet.save(pictures[0])
    for row, prediction in found[:SINGLES]:
        path = index.photo_path(row)
        pictures.append(out / f"{path.stem}.png")
        draw_prediction(load_photo(path), prediction).save(pictures[-1])
    return pictures


def _tile(index: Index, row: int, prediction: Prediction) -> Tile:
    shown = np.unique(index.box_concepts[index.boxes_of(row)])
    there = [index.concepts[int(concept)] for concept in shown]
    there.sort(key=lambda concept: concept.split != "novel")
    names = ", ".join(f"{STAR} {one.name}" if one.split == "novel" else one.name for one in there)
    return Tile(load_photo(index.photo_path(row)), marks_of(prediction), f"shows {names}")
