"""The seam of teacher rows: what a source of rows is given, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cckt.cache_builder.index import Index
from cckt.cache_builder.store import Column
from cckt.detector.config.config import DataConfig
from cckt.detector.students.targets import TeacherRows


@dataclass(frozen=True)
class SampleView:
    """What a training sample shows of an image."""

    image: int
    """Row of the image."""
    objects: NDArray[np.int64]
    """(M,) rows of the boxes that the view shows, in the order of the targets."""
    flip: bool
    """The view is flipped horizontally."""
    proposals: NDArray[np.int64] = field(default_factory=lambda: np.arange(0))
    """(P,) rows of the proposals table that the view shows, in the order of the targets."""


class RowSource(ABC):
    """Reads one name of teacher rows."""

    columns: list[Column]
    """Everything it reads; all of them must come from the run's teacher. The first one's recipe describes the
    rows."""

    @abstractmethod
    def __init__(self, data: Path, index: Index, options: DataConfig) -> None:
        """Open the columns of a data set's folder.

        Raises UserError for a column that is missing, unfinished, or made for another index.
        """

    @property
    def recipe(self) -> dict[str, Any]:
        """How the rows were made, for facts.json."""
        recipe = dict(self.columns[0].manifest.spec.recipe)
        views = [column.manifest.spec.name for column in self.columns[1:]]
        return recipe | ({"views": views} if views else {})

    @abstractmethod
    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        """Return the rows of a sample. random: generator of the sample; equal for equal seed, epoch and
        position."""


def rows_of(column: Column, rows: NDArray[np.int64]) -> TeacherRows:
    """Return the values of rows (n,) of a column as (n, D) float32, and which of them are valid."""
    values: Tensor = torch.from_numpy(column.take(rows).astype(np.float32))
    return TeacherRows(values, torch.from_numpy(column.valid(rows)))
