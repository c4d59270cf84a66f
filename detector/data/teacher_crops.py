"""The teacher's embeddings of a photo's objects, in the view that the student sees of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cckt.cache_builder.store import Column, ColumnName, column_of, list_columns, open_column, parse_name
from cckt.detector.config.config import DataConfig


class CropViews:
    """The column `crops` of a data set, of the teacher `data.teacher`, and the views of it that are there and
    asked for.

    `flipped`: `crops-flipped`, or None. `upright`: `crops`, then `crops-jitter-1` and on.

    Raises UserError for a column that is missing, unfinished or of another index.
    """

    def __init__(self, data: Path, index_digest: str, config: DataConfig) -> None:
        label = config.teacher
        plain = parse_name(column_of(data, "crops", label))
        assert plain is not None
        names = [plain]
        known = [found for name in list_columns(data) if (found := parse_name(name)) is not None]
        own = [name for name in known if name.kind == "crops" and name.label == label]
        if config.jittered_crops != "never":
            names += sorted((name for name in own if name.jitter), key=lambda name: name.jitter)
        if config.jittered_crops == "always" and len(names) == 1:
            names.append(ColumnName("crops", label, "jitter-1"))
        mirrored = ColumnName("crops", label, "flipped")
        wanted = config.flipped_crops == "always" or (config.flipped_crops == "auto" and mirrored in own)
        self.upright = [open_column(data, str(name), index_digest=index_digest) for name in names]
        self.flipped: Column | None = None
        if wanted and config.flip > 0:
            self.flipped = open_column(data, str(mirrored), index_digest=index_digest)

    @property
    def columns(self) -> list[Column]:
        """All of them."""
        return [*self.upright, *([self.flipped] if self.flipped else [])]

    def take(self, rows: NDArray[np.int64], flip: bool, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(M, D) float32 unit embeddings of box rows (M,), and (M,) bool whether there is one.

        flip: the student sees the photo mirrored; its rows then are those of the mirrored crops, where there
        is such a column. Else each object's row is of one of the upright views, drawn by `rng`.
        """
        if flip and self.flipped is not None:
            return _rows(self.flipped, rows)
        if len(self.upright) == 1:
            return _rows(self.upright[0], rows)
        chosen = rng.integers(len(self.upright), size=len(rows))
        values = torch.zeros(len(rows), self.upright[0].width)
        valid = torch.zeros(len(rows), dtype=torch.bool)
        for number in np.unique(chosen).tolist():
            places = np.flatnonzero(chosen == number)
            values[places], valid[places] = _rows(self.upright[number], rows[places])
        return values, valid


def _rows(column: Column, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(column.take(rows).astype(np.float32)), torch.from_numpy(column.valid(rows))
