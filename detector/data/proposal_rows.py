"""Teacher rows of HD-OVD: crops and nouns of proposals, and whole images (docs/method/hd_ovd.md, section 13).

A mirrored view reads the rows of the original proposals, nouns and images, as the authors do (section 6).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals import open_proposals
from cckt.cache_builder.proposals.nouns import TEXTS, open_nouns, open_over
from cckt.cache_builder.store import Column, ColumnName, open_column
from cckt.detector.config.config import DataConfig
from cckt.detector.data.row_source import RowSource, SampleView, rows_of
from cckt.detector.students.targets import TeacherRows


class ProposalCropRows(RowSource):
    """Crops of the proposals: column `proposals/crops` of the teacher `data.teacher`."""

    def __init__(self, data: Path, index: Index, options: DataConfig) -> None:
        table = open_proposals(data, index, options.proposals_name)
        name = ColumnName("proposals/crops", options.teacher, of=options.proposals_name)
        self.column: Column = open_column(data, str(name), index_digest=table.digest)
        self.columns = [self.column]

    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        """Return (P, D) unit embeddings of the proposals that the view shows."""
        found = rows_of(self.column, view.proposals)
        return TeacherRows(found.values, found.valid, "proposal")


class NounRows(RowSource):
    """Nouns of the proposals: columns `proposals/nouns` and `proposals/noun_texts` of `data.teacher`.

    `ids` of the rows: the row of an equal base concept in the base text matrix (C rows), else C + noun.
    """

    def __init__(self, data: Path, index: Index, options: DataConfig) -> None:
        table = open_proposals(data, index, options.proposals_name)
        self.nouns = open_nouns(data, index, table, options.teacher)
        self.columns = [open_over(data, table, TEXTS, options.teacher)]
        names = [index.concepts[row].name for row in index.concepts.rows("base").tolist()]
        base = self.nouns.base_rows(names)
        self.ids_of_nouns = np.where(base >= 0, base, len(names) + np.arange(len(base)))

    @property
    def recipe(self) -> dict[str, Any]:
        """How the texts were made, and the fitted constants of the nouns' weight under "weight"."""
        weight = self.nouns.weight
        return super().recipe | ({"weight": weight.to_json()} if weight else {})

    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        """Return (P, D) unit text embeddings of the nouns of the proposals that the view shows, and ids."""
        nouns = self.nouns.ids[view.proposals]
        valid = nouns >= 0
        nouns = np.where(valid, nouns, 0)
        width = self.nouns.embeddings.shape[1]
        values = self.nouns.embeddings[nouns] if valid.any() else np.zeros((len(nouns), width), np.float32)
        ids = self.ids_of_nouns[nouns] if valid.any() else nouns
        return TeacherRows(
            torch.from_numpy(values), torch.from_numpy(valid), "proposal", torch.from_numpy(ids)
        )


class ImageRows(RowSource):
    """Whole images: column `images` of the teacher `data.teacher`."""

    def __init__(self, data: Path, index: Index, options: DataConfig) -> None:
        self.column: Column = open_column(
            data, str(ColumnName("images", options.teacher)), index_digest=index.digest
        )
        self.columns = [self.column]

    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        """Return the (1, D) unit embedding of the image."""
        found = rows_of(self.column, np.array([view.image]))
        return TeacherRows(found.values, found.valid, "image")
