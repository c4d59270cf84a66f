"""A teacher next to a trained detector: embeddings of concepts and crops, priors of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cckt.cache_builder.base.constants import CROP, TAU, TEMPLATES
from cckt.cache_builder.presence import clip_probability
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.crop_rules import crop_rectangles
from cckt.cache_builder.teacher.prompts import embed_concepts, resolve_templates, wordings
from cckt.cache_builder.teacher.text_cache import TextCache, key_of
from cckt.cache_builder.vocabulary import Vocabulary


class TeacherGuide:
    """The `Guide` of `cckt.detector.inference.predict` made from a CLIP teacher.

    text_recipe: recipe of the text column that the run was trained with; its templates, and for concepts of a
    data set its choice about synonyms, are used here too. An imported table records neither: the defaults of
    `cckt cache text` apply. tau: temperature of the priors; None is the default of `cckt cache priors`. crop:
    rule of the run's crops column (`crop_rectangles`). cache: folder in which text embeddings are kept for
    the next time; None keeps none.
    """

    def __init__(
        self,
        teacher: Teacher,
        text_recipe: Mapping[str, Any] | None = None,
        tau: float | None = None,
        crop: str = CROP,
        cache: Path | None = None,
    ) -> None:
        self.name, self.weight_digest = teacher.name, teacher.weight_digest
        self.architecture: Mapping[str, Any] = teacher.recipe()["architecture"]
        recorded = (text_recipe or {}).get("templates") or {}
        self._templates = resolve_templates(recorded.get("patterns") or TEMPLATES)
        self._synonyms = bool((text_recipe or {}).get("synonyms", False))
        self._teacher, self._tau, self._crop = teacher, TAU if tau is None else tau, crop
        self._cache = None if cache is None else TextCache(cache, self._text_recipe())
        self.logit_scale, self.logit_bias = teacher.logit_scale, teacher.logit_bias

    def text(self, vocabulary: Vocabulary) -> NDArray[np.float32]:
        """Return (C, D) float32 unit text embeddings (docs/method/cckt_det.md, eq. 1).

        Concepts of a data set are embedded as in the run's text column: with their synonyms only if the
        column was made with --synonyms. Synonyms that the user typed ("tv|television") are always averaged.
        """
        synonyms = vocabulary.typed or self._synonyms
        keys = [key_of(wordings(concept, synonyms)) for concept in vocabulary]
        known = {} if self._cache is None else self._cache.read()
        new = {key: concept for key, concept in zip(keys, vocabulary, strict=True) if key not in known}
        encode = self._teacher.encode_texts_quickly
        rows = embed_concepts(list(new.values()), self._templates, encode, synonyms=synonyms)
        if new and self._cache is not None:
            self._cache.add(list(new), rows)
        known |= dict(zip(new, rows, strict=True))
        return np.stack([known[key] for key in keys]) if keys else rows

    def _text_recipe(self) -> dict[str, Any]:
        """Return what determines a text embedding: teacher (not its name), device, templates."""
        teacher = {key: value for key, value in self._teacher.recipe().items() if key != "name"}
        device = self._teacher.device.type
        return {"teacher": teacher, "device": device, "templates": list(self._templates.patterns)}

    def presence(self, photos: Sequence[Image.Image], text: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return (B, C) float32 priors of RGB images (docs/method/cckt_det.md, eq. 5)."""
        if not photos:
            return np.zeros((0, len(text)), np.float32)
        pixels = np.stack([self._teacher.preprocess.pixels(photo) for photo in photos])
        return clip_probability(self._teacher.encode_images(pixels), text, self._tau)

    def crops(
        self, photos: Sequence[Image.Image], boxes: Sequence[NDArray[np.floating[Any]]]
    ) -> list[NDArray[np.float32]]:
        """Return for each RGB image the (K, D) unit embeddings of its (K, 4) xyxy boxes in pixels."""
        pixels = []
        for photo, found in zip(photos, boxes, strict=True):
            rectangles = crop_rectangles(np.asarray(found, np.float64).reshape(-1, 4), photo.size, self._crop)
            for left, top, right, bottom in rectangles.tolist():
                left, top = min(left, photo.width - 1), min(top, photo.height - 1)  # an empty box
                crop = photo.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
                pixels.append(self._teacher.preprocess.pixels(crop))
        empty = np.zeros((0, *self._teacher.preprocess.shape), np.uint8)
        embedded = self._teacher.encode_images(np.stack(pixels) if pixels else empty)
        return list(np.split(embedded, np.cumsum([len(found) for found in boxes])[:-1])) if boxes else []
