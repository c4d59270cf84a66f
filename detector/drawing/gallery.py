"""Draw the novel concepts that a detector finds in a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cckt.cache_builder.base.errors import counted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index
from cckt.cache_builder.photos import load_photo
from cckt.detector.drawing.draw import draw_marks
from cckt.detector.drawing.judge import judged_marks
from cckt.detector.drawing.legend import STAR
from cckt.detector.drawing.picture_files import save_picture
from cckt.detector.drawing.sheet import Tile, contact_sheet
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.prediction import Prediction

PREDICTED, SHOWN, SINGLES = 96, 12, 6
"""Images to predict, images on the contact sheet, and images drawn separately."""


def draw_finds(out: Path, detector: Predictor, index: Index, progress: Progress) -> list[Path]:
    """Draw detections in images with novel annotations; return the files, the contact sheet first.

    Of the first PREDICTED such images, those with the highest score of a novel detection are drawn. Returns
    [] if no image has a novel annotation.
    """
    novel = index.concepts.in_split("novel")[index.box_concepts]  # (M,) bool
    rows = [row for row in range(len(index)) if novel[index.boxes_of(row)].any()]
    rows = rows[:PREDICTED]
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
    photos = counted(len(rows), "held-out photo")
    sheet = contact_sheet(
        [_tile(index, row, prediction) for row, prediction in found[:SHOWN]],
        columns=4,
        cell=300,
        title="Found without annotations",
        subtitle=f"the most confident novel detections in {photos}, right and wrong",
    )
    pictures = [out / "sheet.png"]
    save_picture(sheet, pictures[0])
    for row, prediction in found[:SINGLES]:
        path = index.photo_path(row)
        pictures.append(out / f"{path.stem}.png")
        save_picture(draw_marks(load_photo(path), judged_marks(index, row, prediction)), pictures[-1])
    return pictures


def _tile(index: Index, row: int, prediction: Prediction) -> Tile:
    shown = np.unique(index.box_concepts[index.boxes_of(row)])
    annotated = [index.concepts[int(concept)] for concept in shown]
    annotated.sort(key=lambda concept: concept.split != "novel")
    names = ", ".join(f"{STAR} {one.name}" if one.split == "novel" else one.name for one in annotated)
    return Tile(load_photo(index.photo_path(row)), judged_marks(index, row, prediction), f"shows {names}")
