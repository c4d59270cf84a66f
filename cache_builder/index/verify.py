"""Checks that read whole tables: no box of a novel concept, and contents as they were built."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.index.card import FILES, SEAL, card_text, is_sealed
from cckt.cache_builder.index.formats.repairs import is_repairs_file
from cckt.cache_builder.index.generations import kept_names, record_file
from cckt.cache_builder.index.photo_files.record import read_record
from cckt.cache_builder.index.reader import Index
from cckt.cache_builder.index.tables import (
    CARD,
    FOLDER,
    boxes_by_concept,
    tables_digest,
    tables_folder,
)
from cckt.cache_builder.index.write import LOCK, is_left_behind

FOREIGN = "does not belong to the index"
"""End of the problem of a file that no build wrote."""


def novel_boxes(index: Index) -> int:
    """Return the number of boxes whose concept is not base, counted in the tables themselves.

    0 proves that nothing made from a `keep="base"` index can see a box of a novel concept. In a `keep="all"`
    index such boxes are expected.
    """
    barred = ~index.concepts.in_split("base")
    in_boxes = np.count_nonzero(barred[np.asarray(index.box_concepts)])
    by_concept = np.diff(index.concept_box_offsets)[barred].sum()
    return int(max(in_boxes, by_concept))


def verify_index(index: Index) -> bool:
    """Return whether the tables, file names and concepts are those that were built. Reads all of them."""
    return not index_problems(index)


def index_problems(index: Index) -> list[str]:
    """Return a sentence for each file of an index that is not as it was built. Reads every byte.

    Files that no build wrote are reported too. An index of an earlier version holds no digests of its files:
    its contents are compared with the digest of the index, which does not cover the heads of the arrays.
    """
    folder = index.folder / FOLDER
    tables = index.card["tables"]
    digests: dict[str, str] = index.card.get(FILES, {})
    problems = []
    if not _contents_fit(index):
        problems.append("the tables are not those that were built")
    if is_sealed(index.card):
        entries = {**index.card, "concepts": index.concepts.to_json()}
        ordered = {key: entries[key] for key in (*(k for k in entries if k != SEAL), SEAL)}
        if read_regular(folder / CARD) != card_text(ordered).encode():
            problems.append(f"{CARD} is not as it was written")
        if digests.keys() != {f"{name}.npy" for name in index.names}:
            problems.append(f"{CARD} has digests of other files than those of its tables")
    for name, digest in digests.items():
        path = folder / tables / name
        if not path.is_file() or file_digest(path) != digest:
            problems.append(f"{tables}/{name} is {'damaged' if path.is_file() else 'missing'}")
    listed = index.card.get("repairs", {}).get("file")
    if listed is not None and not _is_as_listed(folder / str(listed)):
        problems.append(f"{listed} is missing or damaged")
    record = record_file(tables)
    if (folder / record).exists() and read_record(folder / record) is None:
        problems.append(f"{record} is damaged")
    known = {CARD, LOCK, tables, listed, record, *kept_names(index.folder)}
    foreign = [one.name for one in folder.iterdir() if one.name not in known and not is_left_behind(one)]
    inside = {f"{name}.npy" for name in index.names}
    foreign += [f"{tables}/{path.name}" for path in (folder / tables).iterdir() if path.name not in inside]
    problems += [f"{name} {FOREIGN}" for name in sorted(foreign)]
    return problems


def _contents_fit(index: Index) -> bool:
    """Return whether digest, name of the folder and derived tables fit the contents of the tables."""
    try:
        derived = boxes_by_concept(index.box_concepts, len(index.concepts))
    except ValueError:  # a negative concept row
        return False
    return (
        tables_digest(index, index.concepts, index.exif) == index.digest
        and index.card["tables"] == tables_folder(index, index.digest)
        and all(np.array_equal(getattr(index, name), values) for name, values in derived.items())
    )


def _is_as_listed(path: Path) -> bool:
    """Return whether a list of repairs has the digest in its name."""
    if not is_repairs_file(path.name) or not path.is_file():
        return False
    return hashlib.sha256(read_regular(path)).hexdigest()[:16] in path.name
