"""A vocabulary as a run understands it: which words are base, and the embedding that each is found by."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Concept, Vocabulary, normalise_name
from cckt.detector.runs.run_folder import Facts

Floats = npt.NDArray[np.floating[Any]]


class Guide(Protocol):
    """Who knows the teacher: it reads words and looks at photos."""

    name: str
    weight_digest: str
    """ "sha256:..." of the teacher's weights; must be that of the run's teacher."""

    def text(self, vocabulary: Vocabulary) -> Floats:
        """(C, D) float32 unit: the prompt ensemble of each concept."""

    def presence(self, photos: Sequence[Image.Image], text: Floats) -> Floats:
        """(B, C) probability that the concept is in the photo (METHOD.md section 3)."""


def with_splits(words: Vocabulary, annotated: AbstractSet[str]) -> Vocabulary:
    """The vocabulary with splits as a run has it: base if trained on by that name, else novel.

    annotated: the normalised names and synonyms that the run was trained on.
    """

    def split(concept: Concept) -> str:
        names = {normalise_name(name) for name in (concept.name, *concept.synonyms)}
        return "base" if names & annotated else "novel"

    return Vocabulary(replace(concept, split=split(concept)) for concept in words)


def unit_text(
    words: Vocabulary, text: Floats | Tensor | None, guide: Guide | None, facts: Facts
) -> npt.NDArray[np.float32]:
    """(C, D) float32 unit embeddings of a vocabulary: `text`, or where that is None what the guide reads.

    Raises UserError for an empty vocabulary, where nobody can read it, and for text of another shape or
    without a direction.
    """
    if not len(words):
        raise UserError(
            'the vocabulary is empty; name at least one concept, such as --vocabulary "forklift, pallet".'
        )
    if text is None:
        if guide is None:
            teacher = facts.taught_by or {}
            raise UserError(
                "nobody can read the vocabulary: give --teacher "
                f"{teacher.get('name') or 'NAME'} (the run's), or text embeddings."
            )
        text = guide.text(words)
    table = np.asarray(text.cpu() if isinstance(text, Tensor) else text, np.float32)
    expected = (len(words), facts.embedding_dim)
    if table.shape != expected:
        raise UserError(
            f"the text embeddings have shape {table.shape}, expected {expected}: a row for each concept, "
            "as wide as the embeddings of the run's teacher."
        )
    length = np.linalg.norm(table, axis=1, keepdims=True)
    if not np.isfinite(length).all() or not (length > 0).all():
        raise UserError("the text embeddings hold a row that is no direction (zeros, NaN); make them again.")
    unit: npt.NDArray[np.float32] = table / length
    return unit


def rows_of(words: Vocabulary, present: Sequence[str | int]) -> npt.NDArray[np.int64]:
    """Rows of concepts that are named, or given as rows. UserError for one that is not there."""
    rows = [words.row_named(one) if isinstance(one, str) else int(one) for one in present]
    bad = next((row for row in rows if not 0 <= row < len(words)), None)
    if bad is not None:
        raise UserError(f"present names row {bad}, but the vocabulary has rows 0 to {len(words) - 1}.")
    return np.array(rows, np.int64)
