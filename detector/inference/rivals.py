"""Rivals: the base concepts of a run that compete with the words of a user.

With a softmax over the concepts (docs/method/cckt_det.md, eq. 30) a score is a share among the scored
concepts: over a few words it is high for every region. The base concepts that a user does not name therefore
always take part. They are never shown.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.vocabulary import Concept, Vocabulary, normalise_name
from cckt.detector.inference.vocabulary import Guide, forms_in, unit_text
from cckt.detector.runs.run_folder import Facts


class BaseText:
    """Text embeddings of the base concepts of a run: from the run folder, else from the guide.

    The embeddings of the guide are computed once, on first use.
    """

    def __init__(
        self, facts: Facts, guide: Guide | None, saved: npt.NDArray[np.float32] | None = None
    ) -> None:
        self._facts, self._guide, self._saved = facts, guide, saved
        self._known: npt.NDArray[np.float32] | None = None

    @property
    def known(self) -> bool:
        """Whether there is a guide or a saved table; without either there are no rivals."""
        return self._guide is not None or self._saved is not None

    def rivals_of(self, words: Vocabulary) -> tuple[npt.NDArray[np.float32], list[bool]]:
        """Return the rivals of a user's words: (R, D) unit embeddings, and whether each had annotated boxes
        in training, not only pseudo boxes."""
        rows = self.rows_of(words)
        if not rows:
            return np.zeros((0, self._facts.embedding_dim), np.float32), []
        annotated = self._facts.annotated
        return self._table()[rows], [normalise_name(self._facts.names[row]) in annotated for row in rows]

    def rows_of(self, words: Vocabulary) -> list[int]:
        """Return the rows of the base concepts that no word or synonym of a user names; none where there are
        no embeddings."""
        if not self.known:
            return []
        facts, forms = self._facts, forms_in(words)
        named = {form for word in words for name in word.every_name for form in forms(name)}
        rows = range(len(facts.names))
        return [row for row in rows if not any(named & forms(name) for name in facts.names_of(row))]

    def _table(self) -> npt.NDArray[np.float32]:
        if self._known is None:
            if self._saved is not None:  # those of the training, with its synonyms and prompts
                self._known = self._saved
            else:
                assert self._guide is not None, "expected a guide or saved text embeddings, found neither"
                concepts = Vocabulary(Concept(row, name) for row, name in enumerate(self._facts.names))
                self._known = unit_text(concepts, None, self._guide, self._facts)
        return self._known
