"""What was found in one photo, and the files it can be written to."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import nms

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.photo_sources import name_of


@dataclass(frozen=True, eq=False)
class Prediction:
    """K finds in one photo, best first.

    boxes_xyxy: (K, 4) float32, left, top, right, bottom in pixels of the original photo, inside it.
    scores: (K,) float32 in [0, 1]. concepts: (K,) int64, rows of `vocabulary`, whose splits say what was
    annotated in training (base) and what was not (novel). size: width and height of the photo in pixels.
    source: the file, or "".
    present: rows of the concepts that the priors said were there, likeliest first; None if no one was asked.
    fault: why the photo could not be read ("" if it could); then there are no finds.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    concepts: npt.NDArray[np.int64]
    vocabulary: Vocabulary
    size: tuple[int, int]
    source: str = ""
    present: tuple[int, ...] | None = None
    fault: str = ""

    def __post_init__(self) -> None:
        shapes = (self.boxes_xyxy.shape, self.scores.shape, self.concepts.shape)
        k = len(self.scores)
        assert shapes == ((k, 4), (k,), (k,)), f"columns of different lengths: {shapes}"

    @staticmethod
    def empty(vocabulary: Vocabulary, size: tuple[int, int], source: str = "", fault: str = "") -> Prediction:
        """Nothing found."""
        boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        return Prediction(boxes, scores, np.zeros(0, np.int64), vocabulary, size, source, None, fault)

    def __len__(self) -> int:
        """How many finds there are."""
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """K names."""
        return [self.vocabulary[int(row)].name for row in self.concepts]

    @property
    def novel(self) -> npt.NDArray[np.bool_]:
        """(K,) bool: found without ever having been annotated in training."""
        return np.array([self.vocabulary[int(row)].split == "novel" for row in self.concepts], bool)

    def where(self, keep: npt.NDArray[Any]) -> Prediction:
        """Those that a mask or an array of positions picks."""
        return replace(
            self, boxes_xyxy=self.boxes_xyxy[keep], scores=self.scores[keep], concepts=self.concepts[keep]
        )

    def distinct(self, overlap: float = 0.7) -> Prediction:
        """One find for each thing, for pictures: a box that overlaps a better one (IoU above `overlap`) is
        left out.

        A query may name its box several times over, and the protocol wants all of it; a person does not.
        """
        boxes, scores = torch.from_numpy(self.boxes_xyxy), torch.from_numpy(self.scores)
        return self.where(nms(boxes, scores, overlap).numpy())

    def to_supervision(self) -> Any:
        """As `supervision.Detections`. Raises UserError where that package is not installed."""
        try:
            supervision = importlib.import_module("supervision")
        except ImportError:
            raise UserError(
                "to_supervision() needs the package supervision, which is not installed; run pip install "
                "'cckt[supervision]'."
            ) from None
        data = {"class_name": np.array(self.names), "novel": self.novel}
        return supervision.Detections(
            xyxy=self.boxes_xyxy, confidence=self.scores, class_id=self.concepts, data=data
        )


def write_coco(predictions: Sequence[Prediction], path: Path, image_ids: Sequence[int] | None = None) -> Path:
    """COCO results format. image_ids: one for each prediction; None numbers them from 1 in their order."""
    ids = range(1, len(predictions) + 1) if image_ids is None else image_ids
    records = [
        {
            "image_id": int(image),
            "category_id": int(one.vocabulary[int(row)].category_id),
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        for image, one in zip(ids, predictions, strict=True)
        for (left, top, right, bottom), score, row in zip(
            one.boxes_xyxy.astype(float).tolist(),
            one.scores.astype(float).tolist(),
            one.concepts,
            strict=True,
        )
    ]
    return _write(path, json.dumps(records, separators=(",", ":")))


def label_names(sources: Sequence[str]) -> list[str]:
    """What the label files of photos and video frames are called, without their ending.

    Raises UserError where two have one name, or one has none.
    """
    names = [name_of(source) for source in sources]
    counts = Counter(names)
    twice = next((name for name in names if not name or counts[name] > 1), None)
    if twice is not None:
        raise UserError(
            f"--format yolo names a file after each photo, but found {twice or 'a photo without a name'!r} "
            "more than once; predict such photos into different folders, or take --format csv."
        )
    return names


def write_yolo(predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """A text file for each photo that could be read, `row cx cy w h score` in fractions of its sides; and,
    beside the folder, classes.txt with the names.

    Files are named after their photos. Raises UserError as `label_names` does.
    """
    readable = [one for one in predictions if not one.fault]  # an empty file would say: nothing is there
    stems = label_names([one.source for one in readable])
    paths = []
    for stem, one in zip(stems, readable, strict=True):
        sides = np.maximum(np.array([*one.size, *one.size], np.float64), 1)
        boxes = one.boxes_xyxy / sides
        centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        lines = [
            f"{row} {c[0]:.6f} {c[1]:.6f} {s[0]:.6f} {s[1]:.6f} {score:.6f}\n"
            for row, c, s, score in zip(one.concepts, centre, side, one.scores, strict=True)
        ]
        paths.append(_write(folder / f"{stem}.txt", "".join(lines)))
    names = predictions[0].vocabulary.names if predictions else []
    return [*paths, _write(folder.with_name("classes.txt"), "".join(f"{name}\n" for name in names))]


def write_csv(predictions: Sequence[Prediction], path: Path) -> Path:
    """A line a find: photo, concept, category_id, novel (0 or 1), score, left, top, right, bottom (px)."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["photo", "concept", "category_id", "novel", "score", "left", "top", "right", "bottom"])
    for one in predictions:
        for name, row, novel, score, box in zip(
            one.names, one.concepts, one.novel, one.scores, one.boxes_xyxy.tolist(), strict=True
        ):
            category = one.vocabulary[int(row)].category_id
            edges = [f"{value:.2f}" for value in box]
            table.writerow([one.source, name, category, int(novel), f"{score:.6f}", *edges])
    return _write(path, text.getvalue())


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
    return path
