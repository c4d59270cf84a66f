"""The detections of one image, and writers of COCO, YOLO and CSV files."""

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

from cckt.cache_builder.base.atomic_files import write_bytes, write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.photo_sources import name_of

IMAGES_FILE = "images.json"
"""Name of the file with the images and categories of predictions.json, in the same folder."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The K detections of one image, highest score first.

    boxes_xyxy: (K, 4) float32, left, top, right, bottom in pixels of the original image, clipped to it.
    scores: (K,) float32 in [0, 1]. concepts: (K,) int64, rows of `vocabulary`, in which concepts annotated in
    training have the split "base", all others "novel". size: width and height of the image in pixels. source:
    the file, or "".
    present: rows of the present concepts that guided the queries, most likely first; None without priors.
    fault: the reason if the image is unreadable, else ""; such an image has no detections.
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
        assert shapes == ((k, 4), (k,), (k,)), f"expected shapes (K, 4), (K,), (K,), found {shapes}"

    @staticmethod
    def empty(vocabulary: Vocabulary, size: tuple[int, int], source: str = "", fault: str = "") -> Prediction:
        """Return a prediction without detections."""
        boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        return Prediction(boxes, scores, np.zeros(0, np.int64), vocabulary, size, source, None, fault)

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Concept names of the K detections."""
        return [self.vocabulary[int(row)].name for row in self.concepts]

    @property
    def novel(self) -> npt.NDArray[np.bool_]:
        """(K,) bool: the concept was not annotated in training."""
        return np.array([self.vocabulary[int(row)].split == "novel" for row in self.concepts], bool)

    def where(self, keep: npt.NDArray[Any]) -> Prediction:
        """Return the detections selected by a mask or an array of positions."""
        return replace(
            self, boxes_xyxy=self.boxes_xyxy[keep], scores=self.scores[keep], concepts=self.concepts[keep]
        )

    def distinct(self, overlap: float = 0.7) -> Prediction:
        """Return one detection per object, for drawing.

        A box whose IoU with a box of higher score is above `overlap` is dropped, whatever the concepts: one
        query can give several detections with different concepts.
        """
        boxes, scores = torch.from_numpy(self.boxes_xyxy), torch.from_numpy(self.scores)
        return self.where(nms(boxes, scores, overlap).numpy())

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections`. Raises UserError if that package is not installed."""
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
    """Write a COCO results file. image_ids: one per prediction; None numbers the images from 1."""
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


def write_coco_images(predictions: Sequence[Prediction], path: Path) -> Path:
    """Write the images and categories that the ids of a COCO results file refer to.

    Images are numbered from 1 as in `write_coco`. `cckt eval --detections` compares the names in this file
    with those of the index.
    """
    images = [
        {"id": number, "file_name": one.source, "width": one.size[0], "height": one.size[1]}
        for number, one in enumerate(predictions, 1)
    ]
    concepts = predictions[0].vocabulary if predictions else ()
    categories = [{"id": concept.category_id, "name": concept.name} for concept in concepts]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"images": images, "categories": categories})
    return path


def label_names(sources: Sequence[str]) -> list[str]:
    """Return the names of YOLO label files without their suffix, one per image or video frame.

    Raises UserError for two images with one name, and for an image without a name.
    """
    names = [name_of(source) for source in sources]
    counts = Counter(names)
    twice = next((name for name in names if not name or counts[name] > 1), None)
    if twice is not None:
        raise UserError(
            f"--format yolo writes one file per photo name, and found {twice or 'a photo without a name'!r} "
            "more than once, expected different names; predict such photos into different folders, or use "
            "--format csv."
        )
    return names


def write_yolo(predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write one text file per readable image, and classes.txt next to the folder.

    A line is `row cx cy w h score`, with the box in fractions of the image's sides; row k is line k of
    classes.txt. Files have the names of their images. Raises UserError as `label_names` does.
    """
    readable = [one for one in predictions if not one.fault]  # an empty file would mean: no detections
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
    """Write one line per detection: photo, concept, category_id, novel (0 or 1), score, box edges (px).

    Photos and concepts that begin like a formula of a spreadsheet (= + - @) get an apostrophe in front.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["photo", "concept", "category_id", "novel", "score", "left", "top", "right", "bottom"])
    for one in predictions:
        for name, row, novel, score, box in zip(
            one.names, one.concepts, one.novel, one.scores, one.boxes_xyxy.tolist(), strict=True
        ):
            category = one.vocabulary[int(row)].category_id
            edges = [f"{value:.2f}" for value in box]
            table.writerow([_cell(one.source), _cell(name), category, int(novel), f"{score:.6f}", *edges])
    return _write(path, text.getvalue())


def _cell(text: str) -> str:
    """Return a text that spreadsheets show and never compute."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
    return path
