"""Ask only about the concepts of an image that another column of priors ranks first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.text import natural
from cckt.cache_builder.index import Index
from cckt.cache_builder.presence import known_pairs, oracle_presence
from cckt.cache_builder.store import Column, open_column


@dataclass(frozen=True)
class Prefilter:
    """Selects the `keep` concepts of an image with the highest priors in `column`; the others get prior 0."""

    column: Column
    keep: int

    def concepts(self, row: int) -> list[int] | None:
        """Return the ascending concept rows to ask about for an image row.

        None, which means all, where the column has no value for the image.
        """
        if not self.column.valid([row])[0]:
            return None
        return sorted(highest(self.column.slice(row, row + 1), self.keep)[0].tolist())

    def recipe(self) -> dict[str, Any]:
        """Return the prefilter as a column's recipe holds it."""
        return {"column": self.column.manifest.digest, "keep": self.keep, "others": 0.0}

    def summary(self, index: Index) -> str:
        """Return its recall as text: the share of annotated pairs that it keeps."""
        found, pairs = self.recall(index)
        name = f"{self.column.manifest.spec.name.split('/')[1]}:{self.keep}"
        if not pairs:
            return f"prefilter {name}: no annotated photo to measure its recall on"
        return (
            f"prefilter {name} keeps {found / pairs:.4f} of {pairs} annotated pairs with "
            f"{min(self.keep, len(index.concepts))} of {len(index.concepts)} questions per photo"
        )

    def recall(self, index: Index) -> tuple[int, int]:
        """Return the number of annotated (image, concept) pairs that are kept, and of all."""
        presence = oracle_presence(index)
        known = known_pairs(index)
        if known is not None:
            presence &= known
        presence &= self.column.valid_all()[:, None]
        kept = np.zeros_like(presence)
        np.put_along_axis(kept, highest(self.column.all(), self.keep), True, axis=1)
        return int((presence & kept).sum()), int(presence.sum())


def highest(priors: NDArray[np.floating], keep: int) -> NDArray[np.int64]:
    """Return (I, min(keep, C)) concept rows of the highest priors of each image; ties go to the lower row."""
    return np.argsort(-priors, axis=1, kind="stable")[:, :keep]


def open_prefilter(columns: Path | str, text: str, index: Index) -> Prefilter:
    """Return the prefilter of `--prefilter clip:K`, by the column `priors/clip` in `columns`.

    columns: a folder or URL. Raises UserError for any other text, and where the column is missing or of
    another index.
    """
    source, _, number = text.partition(":")
    keep = natural(number)
    if source != "clip" or not keep:
        raise UserError(
            f"--prefilter {text} is not known; give clip:K, for K concepts per photo, such as clip:20."
        )
    return Prefilter(open_column(columns, "priors/clip", index_digest=index.digest, prove=True), keep)
