"""The detections of one image."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import nms

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary


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
