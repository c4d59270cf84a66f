"""One cached crop of every base class: the teacher bank of the authors' code (docs/method/cckt_det.md, eq.
22)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cckt.cache_builder.index import Index
from cckt.cache_builder.store import Column
from cckt.detector.data.row_source import rows_of


@dataclass(frozen=True)
class ClassCrops:
    """Draws a crop of every base class from all crops of the training data.

    column: the crops of the boxes. rows: per base class, in the order of the base text, the rows of its boxes
    that have a crop.
    """

    column: Column
    rows: list[NDArray[np.int64]]

    @staticmethod
    def of(index: Index, column: Column) -> ClassCrops:
        """Return those of a base-only index; crowds are left out."""
        usable = np.flatnonzero(column.valid_all() & ~index.iscrowd)
        concepts = index.box_concepts[usable]
        order = np.argsort(concepts, kind="stable")
        base = index.concepts.rows("base")
        first, last = (np.searchsorted(concepts[order], base, side) for side in ("left", "right"))
        return ClassCrops(column, [usable[order[low:high]] for low, high in zip(first, last, strict=True)])

    def draw(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return (C, D) float32 unit embeddings and (C,) bool: the class has a crop; else its row is 0."""
        random = np.random.default_rng(seed)
        have = np.array([len(rows) > 0 for rows in self.rows], bool)
        chosen = np.array([rows[random.integers(len(rows))] for rows in self.rows if len(rows)], np.int64)
        values = torch.zeros(len(self.rows), self.column.width)
        if len(chosen):
            values[torch.from_numpy(have)] = rows_of(self.column, chosen).values
        return values, torch.from_numpy(have)
