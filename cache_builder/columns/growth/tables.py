"""The table that an older column belongs to: an earlier index, or proposals that were replaced.

Replaced proposals are kept in `.kept/` next to the columns, under their digest, until no column over them is
left. So a column over them can be copied from.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.base.listing import found_in
from cckt.cache_builder.columns.views import BoxTable
from cckt.cache_builder.index import Index, digests_in_use, open_index, sweep_generations
from cckt.cache_builder.proposals import open_proposals
from cckt.cache_builder.proposals.table import BOXES, table_digest
from cckt.cache_builder.store import ColumnName, ColumnSpec, Manifest, parse_name, promote, staged_place
from cckt.cache_builder.store.format.file_names import foreign_names
from cckt.cache_builder.store.format.manifest import read_manifest
from cckt.cache_builder.store.format.spec import OVER_PROPOSALS
from cckt.cache_builder.store.places.files import LocalFiles, open_files
from cckt.cache_builder.store.staging import kept_place, kept_places


def table_of(data: Path, place: Path | str, spec: ColumnSpec) -> BoxTable:
    """Return the index, or the proposals, that a column in `place` of the data set `data` belongs to.

    Raises UserError if the data set has no such table, neither the current one nor one that is kept.
    """
    name = parse_name(spec.name)
    if name is None or spec.table not in OVER_PROPOSALS:
        return open_index(data, spec.index_digest)
    for folder in (place, *kept_places(place)):
        manifest = _proposals_in(folder, name.of)
        if manifest is not None and table_digest(manifest) == spec.index_digest:
            return open_proposals(folder, _index_of(data, manifest), name.of)
    raise UserError(
        f"{data} holds no proposals table {spec.index_digest}: expected the current one or one that a column "
        f"still belongs to; run cckt cache info {quoted(data)} to see the digests in use."
    )


def put_in_place(data: Path, place: Path | str, name: str) -> None:
    """Move the finished column `name` in `.grow/` to its place, and remove tables that nothing belongs to.

    The proposals that it replaces are kept if a column belongs to them.
    """
    parts, keep = parse_name(name), ""
    if parts is not None and parts.kind == BOXES:
        old = _proposals_in(place, parts.of)
        if old is not None and table_digest(old).encode() in digests_in_use(staged_place(place).parent):
            keep = table_digest(old)
    promote(place, name, keep)
    sweep_tables(data, place)


def sweep_tables(data: Path, place: Path | str) -> None:
    """Remove kept proposals, and then earlier indexes, that no column belongs to any more."""
    if not isinstance(open_files(place), LocalFiles):
        return
    used = digests_in_use(staged_place(place).parent)
    for folder in kept_places(place):
        for boxes in sorted(found_in(folder, "*/boxes")):
            files = LocalFiles(boxes)
            manifest = read_manifest(files)
            if manifest is None or table_digest(manifest).encode() in used or foreign_names(files.sizes()):
                continue
            shutil.rmtree(boxes, ignore_errors=True)
            _remove_empty(boxes.parent, folder, kept_place(place, ""))
    sweep_generations(data)


def _proposals_in(place: Path | str, label: str) -> Manifest | None:
    """The manifest of the finished column `proposals/boxes` in a place; None if there is none."""
    try:
        manifest = read_manifest(open_files(place, str(ColumnName(BOXES, of=label))))
    except UserError:
        return None
    return manifest if manifest is not None and manifest.finished else None


def _index_of(data: Path, manifest: Manifest) -> Index:
    return open_index(data, manifest.spec.index_digest)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # it holds another table
            return
