"""Guidance in training by the priors that will guide at test, mistakes and all (beyond the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.store import column_of, open_column
from cckt.detector.config.config import PriorConfig
from cckt.detector.students.deformable_detr.guidance import Rows, choose_present


class TrainingPriors:
    """What the priors say is present in the photos of a training index, of base concepts only.

    A detector that was only ever guided by annotations believes every word; one that was sometimes guided
    by the cached priors has met their mistakes: look-alikes that are not there, things that were not named.
    Novel concepts are chosen among, as at test, and then withheld: training never hears their names.

    Raises UserError where the column priors/`prior.source` is missing, unfinished or of another index.
    """

    def __init__(self, folder: Path, index: Index, prior: PriorConfig, teacher: str = "") -> None:
        if not prior.cached:
            raise UserError(
                f"option train.guidance_priors: found prior.source {prior.source!r}, expected clip or mllm, "
                "whose column holds priors; set train.guidance_priors=0 or another prior.source."
            )
        self._prior = prior
        name = priors_column(folder, prior.source, teacher)
        self._column = open_column(folder, name, index_digest=index.digest)
        self._scored = index.concepts.rows("base", "novel")
        self._base_of = index.concepts.places(index.concepts.rows("base"))
        self._image_ids = index.image_ids

    @property
    def recipe(self) -> dict[str, Any]:
        """How the column was made."""
        return dict(self._column.manifest.spec.recipe)

    def of(self, row: int) -> Rows:
        """Base rows (G,) int64 that the priors give to photo `row`, likeliest first."""
        probabilities = self._column.take(np.array([row]))[:, self._scored]
        prior = self._prior
        chosen = choose_present(
            probabilities, prior.rho, prior.limit, prior.fill, self._image_ids[row : row + 1]
        )[0]
        rows = self._base_of[self._scored[chosen]]
        return rows[rows >= 0]


def priors_column(data: Path, source: str, teacher: str = "") -> str:
    """Name of the column that holds the priors of `source`: CLIP's are of the teacher labelled `teacher`, a
    multimodal LLM's of none. UserError where that teacher made none.
    """
    return column_of(data, f"priors/{source}", teacher if source == "clip" else "")
