"""Turn annotations into the three tables: clip boxes, drop those that must not be seen, sort."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.index.formats import Annotations
from cckt.cache_builder.index.tables import Tables, boxes_by_concept, row_offsets
from cckt.cache_builder.vocabulary import Vocabulary

CLIP_TOLERANCE_PX = 0.01
"""A box that extends this little beyond its image is not counted as clipped: files round their decimals."""


def assemble(
    annotations: Annotations, names: list[str], concepts: Vocabulary, keep: str
) -> tuple[Tables, dict[str, int], int, int]:
    """Clip, drop and sort.

    names: I file names as found on disk, in the order of the file. concepts: with their splits. keep: "all",
    or "base" to drop the boxes and LVIS marks of other concepts.

    Returns the tables, the number of dropped boxes by reason (the first one that applies), the number of kept
    boxes that were clipped, and of those whose area of 0 was replaced by width times height.
    """
    image_order = np.argsort(annotations.images["id"], kind="stable")
    ordered = annotations.images[image_order]
    image_ids = np.ascontiguousarray(ordered["id"])
    widths, heights = np.ascontiguousarray(ordered["width"]), np.ascontiguousarray(ordered["height"])
    blobs = [names[k].encode("utf-8") for k in image_order]

    boxes = annotations.boxes
    image_rows = np.searchsorted(image_ids, boxes["image_id"])
    concept_rows = np.searchsorted(concepts.category_ids, boxes["category_id"])
    with np.errstate(invalid="ignore", over="ignore"):  # non-finite boxes are dropped below
        raw = np.concatenate([boxes["xywh"][:, :2], boxes["xywh"][:, :2] + boxes["xywh"][:, 2:]], axis=1)
    limit = np.stack([widths, heights, widths, heights], axis=1)[image_rows].astype(np.float64)
    clipped = np.clip(raw, 0.0, limit)
    base = concepts.in_split("base") if keep == "base" else np.ones(len(concepts), np.bool_)
    checks = (
        ("not_finite", ~np.isfinite(raw).all(axis=1)),
        ("no_area", ~(boxes["xywh"][:, 2:] > 0).all(axis=1)),
        ("outside_image", ~(clipped[:, 2:] > clipped[:, :2]).all(axis=1)),
        ("novel", ~base[concept_rows] & concepts.in_split("novel")[concept_rows]),
        ("other", ~base[concept_rows]),
    )
    keep_box = np.ones(len(boxes), np.bool_)
    dropped = {}
    for reason, bad in checks:
        dropped[reason] = int(np.count_nonzero(keep_box & bad))
        keep_box &= ~bad
    rows = np.flatnonzero(keep_box)
    n_clipped = int(np.count_nonzero((np.abs(clipped[rows] - raw[rows]) > CLIP_TOLERANCE_PX).any(axis=1)))
    rows = rows[np.lexsort((boxes["id"][rows], image_rows[rows]))]
    xyxy = clipped[rows]
    sides = xyxy[:, 2:] - xyxy[:, :2]
    areas = boxes["area"][rows]
    box_concepts = concept_rows[rows].astype(np.int32)
    image_row_of = np.empty(len(image_order), np.int64)
    image_row_of[image_order] = np.arange(len(image_order))
    marks: dict[str, NDArray[Any]] = {}
    for name, marked in (("neg", annotations.negatives), ("not_exhaustive", annotations.not_exhaustive)):
        mark_rows = np.searchsorted(concepts.category_ids, marked[:, 1])
        pairs = np.stack([image_row_of[marked[:, 0]], mark_rows], axis=1)[base[mark_rows]]
        pairs = np.unique(pairs, axis=0)
        marks[f"{name}_offsets"] = row_offsets(pairs[:, 0], len(image_ids))
        marks[f"{name}_rows"] = pairs[:, 1].astype(np.int32)
    tables = Tables(
        image_ids=image_ids,
        widths=widths,
        heights=heights,
        file_name_bytes=np.frombuffer(b"".join(blobs), np.uint8),
        file_name_offsets=np.cumsum([0, *map(len, blobs)], dtype=np.int64),
        box_offsets=row_offsets(image_rows[rows], len(image_ids)),
        annotation_ids=boxes["id"][rows],
        box_images=image_rows[rows].astype(np.int32),
        box_concepts=box_concepts,
        box_xyxy=xyxy,
        areas=np.where(np.isfinite(areas) & (areas > 0), areas, sides[:, 0] * sides[:, 1]),
        iscrowd=boxes["iscrowd"][rows] != 0,
        difficult=boxes["difficult"][rows] != 0,
        **boxes_by_concept(box_concepts, len(concepts)),
        **marks,
    )
    return tables, dropped, n_clipped, int(np.count_nonzero(areas == 0))
