"""Named teacher rows: the teacher embeddings that targets carry besides boxes and concepts.

A source reads columns and returns rows for the objects that a view of an image shows (or for the image).
Cropping, padding and ranks are handled once, for all names, by `students/targets.py`; flips by the source,
which knows its columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from cckt.cache_builder.index import Index
from cckt.cache_builder.store import Column, ColumnName, column_of, list_columns, open_column, parse_name
from cckt.detector.config.config import DataConfig
from cckt.detector.data.proposal_rows import ImageRows, NounRows, ProposalCropRows
from cckt.detector.data.row_source import RowSource, SampleView, rows_of
from cckt.detector.students.targets import TeacherRows


class CropRows(RowSource):
    """Crops of the annotated objects: column `crops` of the teacher `data.teacher`, and its views if
    configured.

    `upright`: `crops`, then `crops-jitter-1`, ... `flipped`: `crops-flipped`, or None.
    """

    def __init__(self, data: Path, index: Index, options: DataConfig) -> None:
        label = options.teacher
        plain = parse_name(column_of(data, "crops", label))
        assert plain is not None, "column_of returned a name outside the grammar"
        names = [plain]
        known = [found for name in list_columns(data) if (found := parse_name(name)) is not None]
        own = [name for name in known if name.kind == "crops" and name.label == label]
        if options.jittered_crops != "never":
            names += sorted((name for name in own if name.jitter), key=lambda name: name.jitter)
        if options.jittered_crops == "always" and len(names) == 1:
            names.append(ColumnName("crops", label, "jitter-1"))
        mirrored = ColumnName("crops", label, "flipped")
        wanted = options.flipped_crops == "always" or (options.flipped_crops == "auto" and mirrored in own)
        self.upright = [open_column(data, str(name), index_digest=index.digest) for name in names]
        self.flipped: Column | None = None
        if wanted and options.flip > 0:
            self.flipped = open_column(data, str(mirrored), index_digest=index.digest)
        self.columns = [*self.upright, *([self.flipped] if self.flipped else [])]

    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        """Return (M, D) unit embeddings of the objects.

        A flipped view reads the flipped crops if there is such a column; otherwise each object's row comes
        from one of the upright views, drawn by `random`.
        """
        rows = view.objects
        if view.flip and self.flipped is not None:
            return rows_of(self.flipped, rows)
        if len(self.upright) == 1:
            return rows_of(self.upright[0], rows)
        chosen = random.integers(len(self.upright), size=len(rows))
        values = torch.zeros(len(rows), self.upright[0].width)
        valid = torch.zeros(len(rows), dtype=torch.bool)
        for number in np.unique(chosen).tolist():
            places = np.flatnonzero(chosen == number)
            found = rows_of(self.upright[number], rows[places])
            values[places], valid[places] = found.values, found.valid
        return TeacherRows(values, valid)


ROW_SOURCES: dict[str, type[RowSource]] = {
    "crop": CropRows,
    "proposal_crop": ProposalCropRows,
    "noun": NounRows,
    "image": ImageRows,
}
"""Name of the rows -> their source."""


def open_rows(names: Iterable[str], data: Path, index: Index, options: DataConfig) -> dict[str, RowSource]:
    """Open the sources of the named rows."""
    return {name: ROW_SOURCES[name](data, index, options) for name in names}
