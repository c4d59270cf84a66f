"""Skip the hopeless: ask only about the concepts that another column of priors ranks first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.presence import oracle_presence
from cckt.cache_builder.quality.existence import known_pairs
from cckt.cache_builder.store import Column, open_column


@dataclass(frozen=True)
class Prefilter:
    """The `keep` concepts of a photo that `column` ranks first; the others are not asked about."""

    column: Column
    keep: int

    def concepts(self, row: int) -> list[int] | None:
        """Concept rows to ask about in image row `row`, ascending; None (all) where the column has no row."""
        if not self.column.valid([row])[0]:
            return None
        return sorted(first(self.column.slice(row, row + 1), self.keep)[0].tolist())

    def recipe(self) -> dict[str, Any]:
        """As a column's recipe holds it."""
        return {"column": self.column.manifest.digest, "keep": self.keep, "others": 0.0}

    def line(self, index: Index) -> str:
        """What it costs, for a person: the share of annotated pairs that it keeps."""
        found, pairs = self.recall(index)
        name = f"{self.column.manifest.spec.name.split('/')[1]}:{self.keep}"
        if not pairs:
            return f"prefilter {name}: no annotated photo to measure its recall on"
        return (
            f"prefilter {name} keeps {found / pairs:.4f} of {pairs} annotated pairs and asks "
            f"{min(self.keep, len(index.concepts))} of {len(index.concepts)} questions a photo"
        )

    def recall(self, index: Index) -> tuple[int, int]:
        """(annotated (photo, concept) pairs that are still asked about, all of them)."""
        presence = oracle_presence(index)
        known = known_pairs(index, presence)
        if known is not None:
            presence &= known
        presence &= self.column.valid_all()[:, None]
        kept = np.zeros_like(presence)
        np.put_along_axis(kept, first(self.column.all(), self.keep), True, axis=1)
        return int((presence & kept).sum()), int(presence.sum())


def first(priors: NDArray[np.floating], keep: int) -> NDArray[np.int64]:
    """(I, min(keep, C)) concept rows of the largest priors of each photo; of equals the lower row."""
    return np.argsort(-priors, axis=1, kind="stable")[:, :keep]


def open_prefilter(columns: Path | str, text: str, index: Index) -> Prefilter:
    """The prefilter called `text`, "clip:K", by the CLIP priors among `columns`, a folder or a URL.

    Raises UserError for anything else, and where the column is missing or of another index.
    """
    source, _, number = text.partition(":")
    if source != "clip" or not number.isdigit() or int(number) < 1:
        raise UserError(
            f"--prefilter {text} is not known; give clip:K, K concepts a photo, for example clip:20."
        )
    return Prefilter(open_column(columns, "priors/clip", index_digest=index.digest), int(number))
