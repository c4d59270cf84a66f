"""A teacher next to a trained detector: text embeddings of new concepts and priors of new images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cckt.cache_builder.base.constants import TAU, TEMPLATES
from cckt.cache_builder.presence import clip_probability
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.prompts import embed_concepts, resolve_templates
from cckt.cache_builder.vocabulary import Vocabulary


class TeacherGuide:
    """The `Guide` of `cckt.detector.inference.predict` made from a CLIP teacher.

    text_recipe: recipe of the text column that the run was trained with; its templates, and for concepts of a
    data set its choice about synonyms, are used here too. An imported table records neither: the defaults of
    `cckt cache text` apply. tau: temperature of the priors; None is the default of `cckt cache priors`.
    """

    def __init__(
        self, teacher: Teacher, text_recipe: Mapping[str, Any] | None = None, tau: float | None = None
    ) -> None:
        self.name, self.weight_digest = teacher.name, teacher.weight_digest
        recorded = (text_recipe or {}).get("templates") or {}
        self._templates = resolve_templates(recorded.get("patterns") or TEMPLATES)
        self._synonyms = bool((text_recipe or {}).get("synonyms", False))
        self._teacher, self._tau = teacher, TAU if tau is None else tau

    def text(self, vocabulary: Vocabulary) -> NDArray[np.float32]:
        """Return (C, D) float32 unit text embeddings (docs/method/cckt_det.md, eq. 1).

        Concepts of a data set are embedded as in the run's text column: with their synonyms only if the
        column was made with --synonyms. Synonyms that the user typed ("tv|television") are always averaged.
        """
        synonyms = vocabulary.typed or self._synonyms
        return embed_concepts(vocabulary, self._templates, self._teacher.encode_texts, synonyms=synonyms)

    def presence(self, photos: Sequence[Image.Image], text: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return (B, C) float32 priors of RGB images (docs/method/cckt_det.md, eq. 5)."""
        if not photos:
            return np.zeros((0, len(text)), np.float32)
        pixels = np.stack([self._teacher.preprocess.pixels(photo) for photo in photos])
        return clip_probability(self._teacher.encode_images(pixels), text, self._tau)
