"""Refuse annotations that would be read wrongly: normalised boxes, corners, repeated files and names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.index.formats import Annotations
from cckt.cache_builder.vocabulary import normalise_name

CORNER_SHARE = 0.5
"""Boxes look like corners if more than this share of them leaves their photo, though none does as corners."""

LEAVES_SHARE = 0.02
"""A box leaves its photo if it extends beyond it by more than this share of the side, and by 1 pixel."""


def check_categories(found: Annotations) -> None:
    """Raise UserError where two categories have one name."""
    seen: dict[str, int] = {}
    for concept in found.concepts:
        other = seen.setdefault(concept.name, concept.category_id)
        if other != concept.category_id:
            repeated = len(found.concepts) - len({one.name for one in found.concepts})
            raise UserError(
                f"{found.path} has {counted(repeated, 'category', 'categories')} with the name of another "
                "one (the first is "
                f"{concept.name!r}, ids {other} and {concept.category_id}), expected one category per name; "
                "merge or rename them"
            )


def similar_names(found: Annotations) -> list[tuple[str, str]]:
    """Return the pairs of categories whose names differ only in case, spaces and `_`."""
    first: dict[str, str] = {}
    pairs = []
    for concept in found.concepts:
        other = first.setdefault(normalise_name(concept.name), concept.name)
        if other != concept.name:
            pairs.append((other, concept.name))
    return pairs


def check_files(found: Annotations, names: Sequence[str]) -> None:
    """Raise UserError where two images have one file.

    names: I file names, as found on disk.
    """
    if len(set(names)) == len(names):
        return
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        other = seen.setdefault(name, row)
        if other != row:
            ids = found.images["id"]
            raise UserError(
                f"{found.path} has {counted(len(names) - len(set(names)), 'image')} whose file another image "
                f"has (the first is {name!r}, image ids {ids[other]} and {ids[row]}), expected one image "
                "per file; "
                "merge them into one image, or remove the repeated ones"
            )


def check_boxes(found: Annotations) -> int:
    """Return how many boxes look normalised; raise UserError where all do, or all look like corners."""
    xywh = found.boxes["xywh"]
    finite = xywh[np.isfinite(xywh).all(1)]
    if not len(finite):
        return 0
    recorded = np.stack([found.images["width"], found.images["height"]], axis=1)
    sizes = recorded[found.image_of_box()].astype(np.float64)[np.isfinite(xywh).all(1)]
    shares = (np.abs(finite) <= 1).all(1) & (sizes.max(1) > 2)
    if shares.all() and (finite[:, 2:] > 0).all(1).any():
        raise UserError(
            f"{found.path}: all values of its {counted(len(finite), 'box', 'boxes')} are at most 1 (the "
            "first is "
            f"{finite[0].tolist()}), which looks like shares of the photo, expected pixels; multiply them by "
            "the width and height of their photo"
        )
    with np.errstate(over="ignore"):
        beyond = finite[:, :2] + finite[:, 2:] - sizes
    leaves = (beyond > np.maximum(1.0, LEAVES_SHARE * sizes)).any(1)
    corners = ((finite[:, 2:] > finite[:, :2]) & (finite[:, :2] >= 0) & (finite[:, 2:] <= sizes + 1)).all(1)
    if np.count_nonzero(leaves) > CORNER_SHARE * len(finite) and corners.all():
        first = finite[int(np.flatnonzero(leaves)[0])].tolist()
        raise UserError(
            f"{found.path}: {np.count_nonzero(leaves)} of {len(finite)} boxes leave their photo (the first "
            f"is {first}) and all of them fit as corners [x0, y0, x1, y1], expected [x, y, width, height]; "
            "subtract the first corner from the second"
        )
    return int((shares & (finite[:, 2:] > 0).all(1)).sum())
