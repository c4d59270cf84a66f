"""A vocabulary prepared for a run: its splits and its text embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.proposals.provenance import forms_of
from cckt.cache_builder.store import architecture_differences
from cckt.cache_builder.vocabulary import Concept, Vocabulary, normalise_name
from cckt.detector.runs.run_folder import Facts

Floats = npt.NDArray[np.floating[Any]]


class Guide(Protocol):
    """A teacher as inference uses it: text embeddings of new concepts, and priors of new images."""

    name: str
    weight_digest: str
    """ "sha256:..." of the teacher's weights; must equal that of the run's teacher."""

    def text(self, vocabulary: Vocabulary) -> Floats:
        """Return (C, D) float32 unit text embeddings (docs/method/cckt_det.md, eq. 1)."""

    def presence(self, photos: Sequence[Image.Image], text: Floats) -> Floats:
        """Return (B, C) priors of B images (docs/method/cckt_det.md, eq. 5)."""


def require_teacher_of_run(guide: Guide, facts: Facts) -> None:
    """Raise UserError if the guide has other weights than the teacher of the run, or another architecture.

    The architecture is the guide's attribute `architecture`, in the form of a recipe; it may lack it.
    """
    expected = facts.taught_by
    differing = architecture_differences(
        (expected or {}).get("architecture"), getattr(guide, "architecture", None)
    )
    if expected and differing and guide.weight_digest == expected["weight_digest"]:
        raise UserError(
            f"--teacher {guide.name} has the weights of the run's teacher {expected['name']}, but differs in "
            f"{', '.join(differing)}, so its embeddings are others than those that the run was trained with; "
            "make the columns of the training data again (cckt cache all DATA --teacher "
            f"{quoted(expected['name'])} --overwrite) and train anew or "
            "give local-dir:FOLDER, whose open_clip_config.json has the architecture in the run's facts.json."
        )
    if expected and guide.weight_digest != expected["weight_digest"]:
        raise UserError(
            f"--teacher {guide.name} has the weights {guide.weight_digest}, but the run was trained with "
            f"{expected['name']} ({expected['weight_digest']}), expected the same weights; give that "
            "teacher."
        )


def with_splits(words: Vocabulary, annotated: AbstractSet[str]) -> Vocabulary:
    """Return the vocabulary with the splits of a run: "base" if the run was trained on it, else "novel".

    annotated: names that the run was trained on; a concept is base if its name or one of its synonyms is
    among them (`forms_in`).
    """
    forms = forms_in(words)
    trained = {form for name in annotated for form in forms(name)}

    def split(concept: Concept) -> str:
        return "base" if any(trained & forms(name) for name in concept.every_name) else "novel"

    concepts = (replace(concept, split=split(concept)) for concept in words)
    return Vocabulary(concepts, typed=words.typed)


def forms_in(words: Vocabulary) -> Callable[[str], set[str]]:
    """Return the forms in which names are compared with those of a vocabulary.

    Of words that somebody typed, "cats" and "a cat" are "cat"; the concepts of a data set may be "person" and
    "people", one of them novel.
    """
    return forms_of if words.typed else lambda name: {normalise_name(name)}


def unit_text(
    words: Vocabulary, text: Floats | Tensor | None, guide: Guide | None, facts: Facts
) -> npt.NDArray[np.float32]:
    """Return (C, D) float32 unit text embeddings of a vocabulary: `text`, or the guide's if that is None.

    Raises UserError for an empty vocabulary, when neither text nor guide is given, and for text of another
    shape, zeros or non-finite values.
    """
    if not len(words):
        raise UserError(
            'the vocabulary is empty; name at least one concept, such as --vocabulary "forklift, pallet".'
        )
    if text is None:
        if guide is None:
            teacher = facts.taught_by or {}
            raise UserError(
                "the vocabulary has no text embeddings and no teacher to compute them; give --teacher "
                f"{teacher.get('name') or 'NAME'} (the run's teacher), or text embeddings."
            )
        text = guide.text(words)
    table = np.asarray(text.cpu() if isinstance(text, Tensor) else text, np.float32)
    expected = (len(words), facts.embedding_dim)
    if table.shape != expected:
        raise UserError(
            f"the text embeddings have shape {table.shape}, expected {expected}: one row per concept, as "
            "wide as the embeddings of the run's teacher."
        )
    length = np.linalg.norm(table, axis=1, keepdims=True)
    if not np.isfinite(length).all() or not (length > 0).all():
        row = int(np.flatnonzero(~(np.isfinite(length) & (length > 0)).ravel())[0])
        raise UserError(
            f"the text embedding of {words[row].name!r} (row {row}) is zero or non-finite, expected a vector "
            "of length above 0; compute the embeddings again."
        )
    unit: npt.NDArray[np.float32] = table / length
    return unit


def rows_of_concepts(words: Vocabulary, present: Sequence[str | int]) -> npt.NDArray[np.int64]:
    """Return the rows of concepts given by name or by row. Raises UserError for one that does not exist."""
    rows = [words.row_named(one) if isinstance(one, str) else int(one) for one in present]
    bad = next((row for row in rows if not 0 <= row < len(words)), None)
    if bad is not None:
        raise UserError(
            f"present holds row {bad}, expected rows 0 to {len(words) - 1} of the vocabulary; give a name or "
            "a row of the vocabulary."
        )
    return np.array(rows, np.int64)
