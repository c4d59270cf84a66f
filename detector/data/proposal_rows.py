"""Teacher rows of HD-OVD: crops and nouns of proposals, and whole images (docs/method/hd_ovd.md, section 13).

A mirrored view reads the rows of the original proposals, nouns and images, as the authors do (section 6).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals import open_proposals
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
