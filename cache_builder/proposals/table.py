"""Open the proposals table: what the column `proposals/boxes` of a data set holds, as arrays.

A row of the table is one proposal; rows are in order of images, best first per image. The table has its own
digest, so that making it again invalidates the columns over it and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.index import Index
from cckt.cache_builder.proposals.provenance import Provenance
from cckt.cache_builder.proposals.select import SLOT, used_slots
from cckt.cache_builder.store import ColumnName, Manifest, list_columns, open_column, parse_name
from cckt.cache_builder.store.format.spec import canonical

BOXES = "proposals/boxes"
"""Kind of the column that holds the table."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """The proposals of a data set: P rows. Pickling keeps only the place; a worker process reads it again.

    `box_images`, `box_xyxy`, `iscrowd` and `boxes_of` are named as in `Index`, so that code on boxes takes
    either table.
    """

    index: Index
    """The index that the table belongs to."""
    label: str
    """The user's word for a second table; "" for the first one."""
    digest: str
    """Of the index's digest and the content of the column."""
    recipe: Mapping[str, Any]
    """Recipe of the column: provenance, selection and more."""
    offsets: NDArray[np.int64]
    """(I + 1,): proposals of image row i are rows [offsets[i], offsets[i + 1])."""
    box_images: NDArray[np.int32]
    """(P,) image row of each proposal."""
    box_xyxy: NDArray[np.float64]
    """(P, 4) left, top, right, bottom in pixels of the original image, inside it."""
    scores: NDArray[np.float32]
    """(P,) falling within an image."""
    repeats: NDArray[np.bool_]
    """(P,): the box repeats an annotated one."""

    def __len__(self) -> int:
        """Return the number of proposals, P."""
        return len(self.scores)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.index, self.label, self.digest)

    @property
    def provenance(self) -> Provenance:
        """Who made the proposals."""
        return Provenance.from_recipe(self.recipe)

    @property
    def iscrowd(self) -> NDArray[np.bool_]:
        """(P,) bool: no proposal is a crowd."""
        return np.zeros(len(self), np.bool_)

    def boxes_of(self, image: int) -> slice:
        """Return the proposal rows of an image row."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    @property
    def ranks(self) -> NDArray[np.int64]:
        """(P,) place of each proposal within its image, from 0."""
        ranks: NDArray[np.int64] = np.arange(len(self)) - self.offsets[self.box_images]
        return ranks


def open_proposals(data: Path | str, index: Index, label: str = "") -> Proposals:
    """Open the proposals table of the data set `data`, whose index is `index`.

    label: of a second table. Reads the whole column: 24 bytes for each slot. Raises UserError if there is no
    finished column `proposals/boxes`, if it was made for another index, or if no image has a proposal.
    """
    name = str(ColumnName(BOXES, of=label))
    column = open_column(data, name, index_digest=index.digest, prove=True)
    used_rows = column.all().astype(np.float32)
    used_rows[~column.valid_all()] = 0
    used = used_slots(used_rows)
    counts = used.sum(1)
    if not counts.sum():
        side = column.manifest.spec.recipe.get("selection", {}).get("min_side", 0)
        raise UserError(
            f"{data} has a proposals table ({name}) without a proposal in any of its "
            f"{counted(len(index), 'image')}, "
            f"expected at least one; make it again from another source, or with a --min-side below {side:g} "
            "px, and --overwrite."
        )
    slots = used_rows.reshape(len(index), -1, SLOT)[used]
    return Proposals(
        index=index,
        label=label,
        digest=table_digest(column.manifest),
        recipe=column.manifest.spec.recipe,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        box_images=np.repeat(np.arange(len(index), dtype=np.int32), counts),
        box_xyxy=slots[:, :4].astype(np.float64),
        scores=slots[:, 4],
        repeats=slots[:, 5] > 0,
    )


def table_digest(manifest: Manifest) -> str:
    """Return the digest of the table that a finished column `proposals/boxes` holds.

    It covers the index and the content of the column, not the recipe: the same boxes from a corrected
    statement of their provenance are the same table.
    """
    spec = manifest.spec
    content = {array: list(digests) for array, digests in manifest.chunks.items()}
    shape = [spec.rows, spec.width, spec.chunk_rows]
    return digest_of(canonical({"index": spec.index_digest, "shape": shape, "chunks": content}))


def list_proposals(data: Path | str) -> list[str]:
    """Return the labels of the proposals tables of a data set, finished or not; "" is the first one's."""
    found = [parse_name(name) for name in list_columns(data)]
    return [name.of for name in found if name is not None and name.kind == BOXES]


def _reopen(index: Index, label: str, digest: str) -> Proposals:
    table = open_proposals(index.folder, index, label)
    assert table.digest == digest, f"the proposals of {index.folder} were replaced while they were in use"
    return table
