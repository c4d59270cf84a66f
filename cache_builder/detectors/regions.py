"""Class-agnostic regions of a detector: its boxes, each with the score that it shows anything at all."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.constants import SAW_NOVEL
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.detectors.load import FrozenDetector
from cckt.cache_builder.mllm.load import DTYPES
from cckt.cache_builder.proposals import Provenance
from cckt.cache_builder.proposals.provenance import check_saw_novel, split_words

WORDS = "object."
"""Words of a zero-shot detector, if none are given."""

Floats = NDArray[np.float64]


class DetectorProposer:
    """A `Proposer` (`columns/proposals.py`) by a detector of transformers.

    Attributes: `provenance`; `recipe`, what decides the boxes beside weights and batch.
    """

    def __init__(
        self,
        detector: FrozenDetector,
        words: str | None = None,
        *,
        trained_on: str = "",
        saw_novel: str = SAW_NOVEL,
    ) -> None:
        """words: of a zero-shot detector, separated by commas or full stops. trained_on, saw_novel: the
        user's statement on its training.

        Raises UserError for words that a detector with fixed classes cannot be given, and for none at all.
        """
        if words is not None and not detector.zero_shot:
            raise UserError(
                f"--words applies only to zero-shot detectors; --detector {detector.name} is a "
                f"{detector.kind} with fixed classes. Remove it."
            )
        given = split_words(words or WORDS) if detector.zero_shot else ()
        if detector.zero_shot and not given:
            raise UserError(f"--words {words!r}: found no word, expected at least one, as in {WORDS!r}.")
        self._detector, self._words = detector, list(given)
        self.provenance = Provenance(
            "detector",
            detector.name,
            detector.weight_digest,
            trained_on,
            concepts=detector.labels,
            words=given,
            saw_novel=check_saw_novel(saw_novel),
        )
        self.recipe = detector.recipe()

    def prepare(self, photo: Image.Image) -> Image.Image:
        """Return the photo: the processor pads and resizes a whole batch."""
        return photo

    def propose(self, views: Sequence[Image.Image]) -> list[tuple[Floats, Floats]]:
        """Return for each photo boxes (S, 4) xyxy as fractions of its sides, and scores (S,) in [0, 1].

        A batch is padded to its largest photo. A model that is not told where a photo ends (YOLOS) would give
        fractions of the padded picture, so it sees photos of different sizes one at a time.
        """
        if len({view.size for view in views}) > 1 and not self._sees_padding:
            return [found for view in views for found in self.propose([view])]
        detector = self._detector
        inputs = self._inputs(list(views)).to(detector.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(DTYPES[detector.dtype])
        with torch.inference_mode():
            output = detector.model(**inputs)
        logits, boxes = output.logits.float(), output.pred_boxes.double().cpu().numpy()
        scores = agnostic_scores(logits, self._classes).double().cpu().numpy()
        found = []
        for photo, one, score in zip(views, boxes, scores, strict=True):
            corners = np.concatenate([one[:, :2] - one[:, 2:] / 2, one[:, :2] + one[:, 2:] / 2], axis=1)
            if detector.kind == "owlv2":  # its boxes are fractions of a square that the photo is padded to
                corners = corners * max(photo.size) / np.array([*photo.size, *photo.size])
            found.append((corners, score))
        return found

    @property
    def _sees_padding(self) -> bool:
        """Whether padding does not move boxes: the model is told of it, or its processor makes squares."""
        named = inspect.signature(self._detector.model.forward).parameters
        return self._detector.zero_shot or "pixel_mask" in named

    @property
    def _classes(self) -> int | None:
        """Number of fixed classes; None for a zero-shot detector."""
        return None if self._detector.zero_shot else int(self._detector.model.config.num_labels)

    def _inputs(self, photos: list[Image.Image]) -> Any:
        processor = self._detector.processor
        if not self._detector.zero_shot:
            return processor(images=photos, return_tensors="pt")
        if "grounding" in self._detector.kind:  # one prompt: "cat. dog."
            texts: Any = [". ".join(self._words) + "."] * len(photos)
        else:
            texts = [self._words] * len(photos)
        return processor(images=photos, text=texts, padding=True, return_tensors="pt")


def agnostic_scores(logits: Tensor, classes: int | None) -> Tensor:
    """Return the (B, N) scores of queries with logits (B, N, C), whatever they show.

    With one logit more than `classes`, the last one is of "no object" and the score is 1 minus its softmax
    probability, as in DETR. Else logits are independent, and the score is the highest sigmoid: of classes, of
    words (OWL), or of the prompt's tokens (Grounding DINO).
    """
    if classes is not None and logits.shape[-1] == classes + 1:
        return 1 - logits.softmax(-1)[..., -1]
    return logits.sigmoid().amax(-1)
