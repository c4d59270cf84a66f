"""Rivals: the base concepts of a run that compete with the words of a user.

With a softmax over the concepts (docs/method/cckt_det.md, eq. 30) a score is a share among the scored
concepts: over a few words it is high for every region. The base concepts that a user does not name therefore
always take part. They are never shown.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.vocabulary import Concept, Vocabulary, normalise_name
from cckt.detector.inference.vocabulary import Guide, unit_text
from cckt.detector.runs.run_folder import Facts


class BaseText:
    """Text embeddings of the base concepts of a run: from the guide, else from the run folder.

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

    def rivals_of(self, words: Vocabulary) -> npt.NDArray[np.float32]:
        """Return (R, D) unit embeddings of the base concepts whose name no word or synonym of a user has."""
        named = {normalise_name(name) for concept in words for name in (concept.name, *concept.synonyms)}
        rows = [row for row, name in enumerate(self._facts.names) if normalise_name(name) not in named]
        if not rows or not self.known:
            return np.zeros((0, self._facts.embedding_dim), np.float32)
        rivals: npt.NDArray[np.float32] = self._table()[rows]
        return rivals

    def _table(self) -> npt.NDArray[np.float32]:
        if self._known is None:
            if self._guide is None:
                assert self._saved is not None, "expected saved text embeddings, found None"
                self._known = self._saved
            else:
                concepts = Vocabulary(Concept(row, name) for row, name in enumerate(self._facts.names))
                self._known = unit_text(concepts, None, self._guide, self._facts)
        return self._known
