"""Make an index from another one: a copy in another folder, or one with boxes that a run found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, counted, listed
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text
from cckt.cache_builder.index.build import relative_root
from cckt.cache_builder.index.formats.repairs import is_repairs_file
from cckt.cache_builder.index.photo_files.record import photo_record, record_bytes
from cckt.cache_builder.index.reader import Index, check_replaceable
from cckt.cache_builder.index.tables import (
    FOLDER,
    SCHEMA,
    Tables,
    boxes_by_concept,
    row_offsets,
    tables_digest,
    tables_folder,
)
from cckt.cache_builder.index.write import write_index
from cckt.cache_builder.vocabulary import Vocabulary


def add_boxes(
    index: Index,
    out: Path,
    images: NDArray[np.int64],
    concepts: NDArray[np.int64],
    boxes_xyxy: NDArray[np.float64],
    origin: dict[str, Any],
) -> str:
    """Write an index with K more boxes to `out/index/`, marked by `box_origins` 1. Return its digest.

    images, concepts: (K,) rows of the index. boxes_xyxy: (K, 4) pixels; they are clipped to their images, and
    boxes without area are dropped. origin: JSON values that say where the boxes come from.

    The concepts of these boxes become base. The card holds `origin` under "pseudo", with the number of boxes
    and the names of the concepts that became base. Boxes that were pseudo before stay so, and the earlier
    entry is kept under "before". Raises UserError where `out` cannot be written or holds an index of a newer
    cckt.
    """
    assert len(images) == len(concepts) == len(boxes_xyxy), (
        f"expected arrays of one length, found {len(images)}, {len(concepts)}, {len(boxes_xyxy)}"
    )
    check_replaceable(out)
    limit = np.stack([index.widths, index.heights] * 2, axis=1)[images].astype(np.float64)
    corners = np.clip(boxes_xyxy, 0.0, limit)
    sides = corners[:, 2:] - corners[:, :2]
    keep = (sides > 0).all(1)
    images, concepts, corners, sides = images[keep], concepts[keep], corners[keep], sides[keep]
    first = int(index.annotation_ids.max(initial=0)) + 1
    new = len(images)
    joined: dict[str, NDArray[Any]] = {
        "annotation_ids": np.concatenate([index.annotation_ids, first + np.arange(new)]),
        "box_images": np.concatenate([index.box_images, images.astype(np.int32)]),
        "box_concepts": np.concatenate([index.box_concepts, concepts.astype(np.int32)]),
        "box_xyxy": np.concatenate([index.box_xyxy, corners]),
        "areas": np.concatenate([index.areas, sides[:, 0] * sides[:, 1]]),
        "iscrowd": np.concatenate([index.iscrowd, np.zeros(new, bool)]),
        "difficult": np.concatenate([index.difficult, np.zeros(new, bool)]),
        "box_origins": np.concatenate([index.pseudo.astype(np.uint8), np.ones(new, np.uint8)]),
    }
    order = np.lexsort((joined["annotation_ids"], joined["box_images"]))
    joined = {name: values[order] for name, values in joined.items()}
    same = {name: np.asarray(getattr(index, name)) for name in index.names if name not in joined}
    same["box_offsets"] = row_offsets(joined["box_images"], len(index))
    tables = Tables(**{**same, **joined, **boxes_by_concept(joined["box_concepts"], len(index.concepts))})
    named = set(concepts.tolist())
    promoted = [index.concepts[row] for row in sorted(named) if index.concepts[row].split != "base"]
    vocabulary = Vocabulary(
        replace(concept, split="base") if row in named else concept
        for row, concept in enumerate(index.concepts)
    )
    digest = tables_digest(tables, vocabulary, index.exif)
    counts = {"images": len(index), "boxes": len(order), "crowd": int(joined["iscrowd"].sum())}
    before = index.card.get("pseudo")
    named_before = before["made_base"] if before else []
    pseudo = {
        **origin,
        "boxes": int(joined["box_origins"].sum()),
        "made_base": [*named_before, *(concept.name for concept in promoted)],
        **({"before": before} if before else {}),
    }
    card = {
        **index.card,
        "schema": SCHEMA,
        "digest": digest,
        "tables": tables_folder(tables, digest),
        "keep": index.keep,
        "image_root": relative_root(index.image_root.resolve(), out.resolve()),
        "counts": {**index.card["counts"], **counts},
        "pseudo": pseudo,
        "concepts": vocabulary.to_json(),
    }
    write_index(out, tables, card, _repairs_of(index, card), _record_of(index))
    return digest


def pseudo_note(index: Index) -> str:
    """Return a sentence with the number of pseudo boxes and the concepts that only they made base.

    "" for an index without pseudo boxes.
    """
    found = int(index.pseudo.sum())
    if not found:
        return ""
    card = index.card["pseudo"]
    note = f"{found} of {len(index.box_images)} boxes were found by the run {card.get('run')}, not annotated"
    if card["made_base"]:
        made = card["made_base"]
        note += f"; only they make {counted(len(made), 'concept')} base ({listed(made, 8)})"
    return note


def pseudo_makers(index: Index) -> list[dict[str, Any]]:
    """Return the makers that the runs behind an index's pseudo boxes learned from, as `Provenance.to_json`
    gives them."""
    found: list[dict[str, Any]] = []
    card = index.card.get("pseudo")
    while card:
        found += [one for one in card.get("makers", []) if one not in found]
        card = card.get("before")
    return found


def require_annotated(index: Index) -> None:
    """Raise UserError for an index with pseudo boxes, which must not be scored on.

    A score on boxes that a run found would measure agreement with that run.
    """
    note = pseudo_note(index)
    if note:
        raise UserError(
            f"{index.folder}: {note}; such boxes serve only for training, so score on the data set that it "
            "was made from."
        )


def require_boxes_to_score(index: Index) -> None:
    """Raise UserError unless the index has boxes, and all of them were annotated."""
    require_annotated(index)
    if not len(index.box_images):
        raise UserError(
            f"{index.folder}: found no box, expected some to score against; index the photos with "
            "--annotations, or find things in them with cckt predict."
        )


def copy_index(index: Index, out: Path) -> str:
    """Write the same index to `out/index/` and return its digest.

    The images stay where they are. Raises UserError where `out` cannot be written or holds an index of a
    newer cckt.
    """
    check_replaceable(out)
    tables = Tables(**{name: np.asarray(getattr(index, name)) for name in index.names})
    root = relative_root(index.image_root.resolve(), out.resolve())
    card = {**index.card, "image_root": root, "concepts": index.concepts.to_json()}
    write_index(out, tables, card, _repairs_of(index, card), _record_of(index))
    return index.digest


def _record_of(index: Index) -> bytes | None:
    """Return the contents of the record of an index's photos; None if it has none."""
    record = photo_record(index)
    return None if record is None else record_bytes(record)


def _repairs_of(index: Index, card: dict[str, Any]) -> tuple[str, str] | None:
    """Return name and text of the file that lists the repairs of an index; None if it has none.

    Removes the entry of `card` where the file is missing.
    """
    name = card.get("repairs", {}).get("file")
    try:
        if not is_repairs_file(name):
            raise FileNotFoundError(name)
        return name, read_regular_text(index.folder / FOLDER / name)
    except (OSError, ValueError):
        card.pop("repairs", None)
        return None
