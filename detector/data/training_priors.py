"""Guidance of training images by the priors that guide in evaluation, errors included (beyond the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.presence import Rows, choose_present
from cckt.cache_builder.store import column_of, open_column
from cckt.detector.config.config import PriorConfig


class TrainingPriors:
    """Present concepts of training images by their priors, base concepts only.

    A detector that is only guided by annotations trusts every concept; one that is sometimes guided by the
    cached priors has seen their errors: similar concepts that are absent, present ones that are missing.
    Novel concepts take part in the choice, as in evaluation, and are then removed: training never sees them.

    Raises UserError if the column priors/`prior.source` is missing, unfinished or made for another index.
    """

    def __init__(self, folder: Path, index: Index, prior: PriorConfig, teacher: str = "") -> None:
        if not prior.cached:
            raise UserError(
                f"option guidance.priors: found prior.source {prior.source!r}, expected clip or mllm, which "
                "are columns; set guidance.priors=0 or another prior.source."
            )
        self._prior = prior
        name = priors_column(folder, prior.source, teacher)
        self._column = open_column(folder, name, index_digest=index.digest, prove=True)
        self._scored = index.concepts.rows("base", "novel")
        self._base_of = index.concepts.places(index.concepts.rows("base"))
        self._image_ids = index.image_ids

    @property
    def recipe(self) -> dict[str, Any]:
        """How the column was made."""
        return dict(self._column.manifest.spec.recipe)

    def of(self, row: int) -> Rows:
        """Return the base rows (G,) int64 that the priors give to image `row`, most probable first."""
        probabilities = self._column.take(np.array([row]))[:, self._scored]
        prior = self._prior
        chosen = choose_present(
            probabilities, prior.rho, prior.limit, prior.fill, self._image_ids[row : row + 1]
        )[0]
        rows = self._base_of[self._scored[chosen]]
        return rows[rows >= 0]


def priors_column(data: Path, source: str, teacher: str = "") -> str:
    """Return the name of the priors column of `source`: CLIP's has the label `teacher`, a multimodal LLM's
    has none.

    Raises UserError if that teacher has no such column.
    """
    return column_of(data, f"priors/{source}", teacher if source == "clip" else "")
