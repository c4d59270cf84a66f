"""Merge the annotations of several files into one data set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.index.formats import Annotations, positions_in
from cckt.cache_builder.index.formats.repairs import Repairs
from cckt.cache_builder.vocabulary import Concept, normalise_name


def merge(parts: Sequence[Annotations], repairs: Repairs) -> Annotations:
    """Return the annotations of all parts as one; that of a single part as it is.

    Categories with one id and one name are one category. Where `repairs` are enabled, categories are matched
    by name, and ids that clash are numbered in the order of the files. Raises UserError where a photo is in
    two parts, or where ids or names clash.
    """
    if len(parts) == 1:
        return parts[0]
    _check_photos(parts)
    image_ids = [part.images["id"] for part in parts]
    annotation_ids = [part.boxes["id"] for part in parts]
    new_images = _new_ids(parts, image_ids, "image", "image_ids", repairs)
    new_annotations = _new_ids(parts, annotation_ids, "annotation", "annotation_ids", repairs)
    concepts, counts, new_categories = _merge_concepts(parts, repairs)
    images, boxes = [], []
    negatives: list[NDArray[np.int64]] = []
    not_exhaustive: list[NDArray[np.int64]] = []
    first = 0
    for number, part in enumerate(parts):
        image, box, category = part.images.copy(), part.boxes.copy(), new_categories[number]
        if new_images is not None:
            image["id"] = new_images[number]
            box["image_id"] = new_images[number][positions_in(part.images["id"], box["image_id"])]
        if new_annotations is not None:
            box["id"] = new_annotations[number]
        known = np.array(list(category), np.int64)
        values = np.array(list(category.values()), np.int64)
        box["category_id"] = values[positions_in(known, box["category_id"])]
        for marks, joined in ((part.negatives, negatives), (part.not_exhaustive, not_exhaustive)):
            joined.append(np.stack([marks[:, 0] + first, values[positions_in(known, marks[:, 1])]], axis=1))
        images.append(image)
        boxes.append(box)
        first += len(image)
    all_boxes = np.concatenate(boxes)
    parents = {new_categories[n][one] for n, part in enumerate(parts) for one in part.parents}
    parents -= set(np.unique(all_boxes["category_id"]).tolist())
    return Annotations(
        Path(" and ".join(str(part.path) for part in parts)),
        digest_of(" ".join(part.digest for part in parts).encode()),
        np.concatenate(images),
        [name for part in parts for name in part.file_names],
        all_boxes,
        concepts,
        sorted(parents),
        counts,
        negatives=np.concatenate(negatives),
        not_exhaustive=np.concatenate(not_exhaustive),
        repairs=repairs,
    )


def _check_photos(parts: Sequence[Annotations]) -> None:
    """Raise UserError where two parts name one photo."""
    seen: dict[str, Annotations] = {}
    for part in parts:
        both = [name for name in part.file_names if name in seen]
        if both:
            raise UserError(
                f"{counted(len(both), 'photo is', 'photos are')} in both {seen[both[0]].path} and "
                f"{part.path} (the first is "
                f"{both[0]!r}), expected each photo in one file; give one of the files, or merge the records "
                "of these photos"
            )
        seen |= dict.fromkeys(part.file_names, part)


def _new_ids(
    parts: Sequence[Annotations], ids: list[NDArray[np.int64]], what: str, kind: str, repairs: Repairs
) -> list[NDArray[np.int64]] | None:
    """Return ids 1, 2, ... in the order of the files; None where the ids of the parts do not clash."""
    joined = np.concatenate(ids)
    shared = len(joined) - len(np.unique(joined))
    if not shared:
        return None
    if not repairs.enabled:
        values, counts = np.unique(joined, return_counts=True)
        clash = int(values[counts > 1][0])
        paths = [part.path for part, one in zip(parts, ids, strict=True) if clash in one]
        raise UserError(
            f"{paths[0]} and {paths[1]} share {counted(shared, f'{what} id')} (the first is {clash}), "
            "expected ids that "
            f"are unique over all files; renumber one of them{repairs.hint('numbers them by file order')}"
        )
    ends = np.cumsum([0, *map(len, ids)])
    numbers = [np.arange(low + 1, high + 1, dtype=np.int64) for low, high in pairwise(ends.tolist())]
    for part, old, new in zip(parts, ids, numbers, strict=True):
        for found, taken in zip(old.tolist(), new.tolist(), strict=True):
            if found != taken:
                repairs.add(kind, f"{what} {found} of {part.path.name}", found, taken)
    return numbers


def _merge_concepts(
    parts: Sequence[Annotations], repairs: Repairs
) -> tuple[list[Concept], list[int | None], list[dict[int, int]]]:
    """Return the concepts by ascending id, their image counts, and of each part category id -> new id."""
    by_id: dict[int, tuple[Concept, int | None, Annotations]] = {}
    by_name: dict[str, tuple[Concept, int | None, Annotations]] = {}
    clash = ""
    for part in parts:
        for concept, count in zip(part.concepts, part.image_counts, strict=True):
            name = normalise_name(concept.name)
            one = by_id.setdefault(concept.category_id, (concept, count, part))
            other = by_name.setdefault(name, (concept, count, part))
            if normalise_name(one[0].name) != name:
                clash = clash or (
                    f"category {concept.category_id} is {one[0].name!r} in {one[2].path} and "
                    f"{concept.name!r} in {part.path}"
                )
            elif one[2] is part and other[2] is not part:
                clash = clash or (
                    f"the category {concept.name!r} has the id {other[0].category_id} in {other[2].path} and "
                    f"{concept.category_id} in {part.path}"
                )
    if not clash:
        kept = sorted(by_id.values(), key=lambda one: one[0].category_id)
        same = [{concept.category_id: concept.category_id for concept in part.concepts} for part in parts]
        return [one[0] for one in kept], [one[1] for one in kept], same
    if not repairs.enabled:
        raise UserError(
            f"{clash}, expected one id and one name for each category in all files; renumber the categories "
            f"of one file{repairs.hint('matches categories by name')}"
        )
    for part in parts:
        if len({normalise_name(concept.name) for concept in part.concepts}) < len(part.concepts):
            raise UserError(
                f"{clash}, and {part.path} has categories whose names differ only in case or '_', so they "
                "cannot be matched by name; renumber the categories of one file"
            )
    number = {name: position for position, name in enumerate(by_name, 1)}
    renamed = [
        Concept(number[name], one[0].name, one[0].synonyms, one[0].split, one[0].frequency)
        for name, one in by_name.items()
    ]
    new = []
    for part in parts:
        new.append({one.category_id: number[normalise_name(one.name)] for one in part.concepts})
        for concept in part.concepts:
            taken = new[-1][concept.category_id]
            if taken != concept.category_id:
                subject = f"category {concept.name!r} of {part.path.name}"
                repairs.add("category_ids", subject, concept.category_id, taken)
    return renamed, [one[1] for one in by_name.values()], new
