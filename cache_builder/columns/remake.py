"""Make rows of a column again: what every kind's own `remake_KIND` gets, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import PRECISION
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals import Proposals
from cckt.cache_builder.runner import Item
from cckt.cache_builder.store import ColumnName, ColumnSpec, architecture_differences, parse_name
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.recorded import require_own_teacher

Remake = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Ascending rows (n,) -> their values (n, width), computed again."""


@dataclass(frozen=True)
class Made:
    """A finished column of a data set, and how a teacher is loaded to make its rows again."""

    index: Index
    spec: ColumnSpec
    teacher_name: str | None
    """Teacher that the user named; None: the one in the recipe."""
    load: Callable[[str, str], Teacher]
    """(name, precision) -> the loaded teacher."""
    proposals: Proposals | None = None
    """Table of the column, if it is a column over proposals."""

    @property
    def table(self) -> Index | Proposals:
        """The table of boxes that the column belongs to: the proposals, or the index."""
        return self.proposals or self.index

    @property
    def name(self) -> ColumnName:
        """The parts of the column's name."""
        name = parse_name(self.spec.name)
        assert name is not None, f"expected a column of a known kind, found {self.spec.name}"
        return name

    def teacher(self) -> Teacher | None:
        """Return the loaded teacher of the column; None for an imported table.

        Raises UserError if it cannot be loaded or has other weights than the column's.
        """
        recorded = self.spec.recipe.get("teacher")
        if not isinstance(recorded, dict) or "import" in self.spec.recipe:
            return None
        if self.teacher_name is None:
            require_own_teacher(recorded["name"], f"column {self.spec.name} of {self.index.folder}")
        teacher = self.load(self.teacher_name or recorded["name"], recorded.get("precision", PRECISION))
        if teacher.weight_digest != recorded["weight_digest"]:
            raise UserError(
                f"teacher {teacher.name} has the weights {teacher.weight_digest}, but column "
                f"{self.spec.name} of {self.index.folder} was made with {recorded['name']} "
                f"({recorded['weight_digest']}); name that teacher."
            )
        differing = architecture_differences(recorded.get("architecture"), teacher.recipe()["architecture"])
        if differing:
            raise UserError(
                f"column {self.spec.name} of {self.index.folder} was made with the weights of teacher "
                f"{teacher.name}, which differs in {', '.join(differing)}, so its rows are others; make the "
                "column again with --overwrite."
            )
        return teacher


def remake_from_photos(
    teacher: Teacher,
    read: Callable[[int, int], Iterable[Item]],
    encode: Callable[[list[Any]], Callable[[], NDArray[np.float32]]],
    batch: int,
) -> Remake:
    """Return the `Remake` of a column of image embeddings; read(row, row + 1) gives the data of a row, and
    `encode` is the runner's map of the column, for at most `batch` rows.

    A row whose photo can no longer be read becomes NaN: it cannot be compared.
    """

    def remake(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        items = [item for row in rows for item in read(row, row + 1)]
        values = np.full((len(items), teacher.width), np.nan, np.float32)
        good = [position for position, item in enumerate(items) if item.data is not None]
        for lo in range(0, len(good), batch):
            part = good[lo : lo + batch]
            values[part] = encode([items[position].data for position in part])()
        return values

    return remake
