"""A teacher beside a trained detector: it reads typed-in words and says what a new photo may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cckt.cache_builder.presence import clip_probability
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.prompts import embed_concepts, resolve_templates
from cckt.cache_builder.vocabulary import Vocabulary


class TeacherGuide:
    """What `cckt.detector.inference.predict` asks while it looks at photos that no cache knows.

    text_recipe: of the text column that the run learnt from, so that new words are filled into the same
    templates; an imported table names none, and the default ensemble is taken.
    """

    def __init__(
        self, teacher: Teacher, text_recipe: Mapping[str, Any] | None = None, tau: float = 0.07
    ) -> None:
        self.name, self.weight_digest = teacher.name, teacher.weight_digest
        recorded = (text_recipe or {}).get("templates") or {}
        self._templates = resolve_templates(recorded.get("patterns") or "ensemble12")
        self._teacher, self._tau = teacher, tau

    def text(self, vocabulary: Vocabulary) -> NDArray[np.float32]:
        """(C, D) float32 unit: the prompt ensemble of each concept, over its synonyms where it has some."""
        return embed_concepts(vocabulary, self._templates, self._teacher.encode_texts, synonyms=True)

    def presence(self, photos: Sequence[Image.Image], text: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """(B, C) float32: sigma(cos(photo, concept) / tau) of RGB photos (METHOD.md section 3)."""
        if not photos:
            return np.zeros((0, len(text)), np.float32)
        pixels = np.stack([self._teacher.preprocess.pixels(photo) for photo in photos])
        return clip_probability(self._teacher.encode_images(pixels), text, self._tau)
