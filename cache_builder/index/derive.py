"""An index made from another one: the same in another folder, or with boxes that nobody annotated, marked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index.build import relative_root
from cckt.cache_builder.index.tables import (
    SCHEMA,
    Index,
    Tables,
    check_replaceable,
    layout_digest,
    tables_digest,
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
    """Write `out`/index: an index with K more boxes, whose box_origins is 1; returns its digest.

    images, concepts: (K,) rows of the index; boxes_xyxy: (K, 4) px, clipped to their photos. Concepts of
    these boxes become base. origin: where the boxes come from, plain values; it stands in the card under
    "pseudo", with the number of boxes and the names that nobody's annotations made base. Boxes that were
    pseudo before stay so, and what the card said of them stands under "before". Raises UserError where `out`
    cannot be written or holds an index of a newer cckt.
    """
    assert len(images) == len(concepts) == len(boxes_xyxy), "columns of different lengths"
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
    same["box_offsets"] = _offsets(joined["box_images"], len(index))
    same["concept_box_offsets"] = _offsets(joined["box_concepts"], len(index.concepts))
    same["concept_boxes"] = np.argsort(joined["box_concepts"], kind="stable").astype(np.int32)
    tables = Tables(**{**same, **joined})
    named = set(concepts.tolist())
    promoted = [index.concepts[row] for row in sorted(named) if index.concepts[row].split != "base"]
    vocabulary = Vocabulary(
        replace(concept, split="base") if row in named else concept
        for row, concept in enumerate(index.concepts)
    )
    digest = tables_digest(tables, vocabulary)
    counts = {"images": len(index), "boxes": len(order), "crowd": int(joined["iscrowd"].sum())}
    before = index.card.get("pseudo")
    named_before = before["made_base"] if before else []
    told = {
        **origin,
        "boxes": int(joined["box_origins"].sum()),
        "made_base": [*named_before, *(concept.name for concept in promoted)],
        **({"before": before} if before else {}),
    }
    card = {
        **index.card,
        "schema": SCHEMA,
        "digest": digest,
        "tables": "tables-" + layout_digest(tables, digest),
        "keep": index.keep,
        "image_root": relative_root(index.image_root.resolve(), out.resolve()),
        "counts": {**index.card["counts"], **counts},
        "pseudo": told,
        "concepts": vocabulary.to_json(),
    }
    write_index(out, tables, card)
    return digest


def pseudo_note(index: Index) -> str:
    """How many boxes of an index nobody annotated, and what is base by them alone; "" for none."""
    found = int(index.pseudo.sum())
    if not found:
        return ""
    card = index.card["pseudo"]
    told = f"{found} of {len(index.box_images)} boxes are finds of the run {card.get('run')}"
    if card["made_base"]:
        names = ", ".join(card["made_base"])
        told += f", and {len(card['made_base'])} concepts are base by them alone ({names})"
    return told


def require_annotated(index: Index) -> None:
    """Raises UserError for an index with boxes that nobody annotated: what is scored on them is scored on a
    run's own opinion.
    """
    told = pseudo_note(index)
    if told:
        raise UserError(
            f"{index.folder}: {told}; they are there to be trained on, so score on the data set that it was "
            "made from."
        )


def copy_index(index: Index, out: Path) -> str:
    """Write `out`/index, the same index in another folder, so that another teacher's columns have a place;
    its digest.

    The photos stay where they are. Raises UserError where `out` cannot be written or holds an index of a
    newer cckt.
    """
    check_replaceable(out)
    tables = Tables(**{name: np.asarray(getattr(index, name)) for name in index.names})
    root = relative_root(index.image_root.resolve(), out.resolve())
    write_index(out, tables, {**index.card, "image_root": root, "concepts": index.concepts.to_json()})
    return index.digest


def _offsets(rows: NDArray[Any], n: int) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(rows, minlength=n), dtype=np.int64)])
