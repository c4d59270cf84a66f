"""Assign each concept to a split: base (trained on), novel (to be found) or other (ignored)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index.formats import Annotations
from cckt.cache_builder.index.split_file import read_split_file, split_by_lists
from cckt.cache_builder.vocabulary import Concept, nearest_name, normalise_name

# OV-COCO (Bansal et al. 2018; the lists of ovr-cnn and Detic): COCO's category id and name.
OV_COCO = {
    "base": "1 person, 2 bicycle, 3 car, 4 motorcycle, 7 train, 8 truck, 9 boat, 15 bench, 16 bird, "
    "19 horse, 20 sheep, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 31 handbag, 33 suitcase, 34 frisbee, "
    "35 skis, 38 kite, 42 surfboard, 44 bottle, 48 fork, 50 spoon, 51 bowl, 52 banana, 53 apple, "
    "54 sandwich, 55 orange, 56 broccoli, 57 carrot, 59 pizza, 60 donut, 62 chair, 65 bed, 70 toilet, "
    "72 tv, 73 laptop, 74 mouse, 75 remote, 78 microwave, 79 oven, 80 toaster, 82 refrigerator, 84 book, "
    "85 clock, 86 vase, 90 toothbrush",
    "novel": "5 airplane, 6 bus, 17 cat, 18 dog, 21 cow, 22 elephant, 28 umbrella, 32 tie, 36 snowboard, "
    "41 skateboard, 47 cup, 49 knife, 61 cake, 63 couch, 76 keyboard, 81 sink, 87 scissors",
    "other": "10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter, 37 sports ball, "
    "39 baseball bat, 40 baseball glove, 43 tennis racket, 46 wine glass, 58 hot dog, 64 potted plant, "
    "67 dining table, 77 cell phone, 88 teddy bear, 89 hair drier",
}

LVIS_RARE_IMAGES, LVIS_COMMON_IMAGES = 10, 100
"""A concept in at most this many images of LVIS's training set is rare; common; else frequent."""

SplitRule = Callable[[Annotations], list[Concept]]


@dataclass(frozen=True)
class Split:
    """A rule that assigns concepts to splits.

    name: of the built-in split, or of the file. apply: return the C concepts of annotations, in row order,
    with their split; raises UserError where the split does not fit the annotations.
    """

    name: str
    apply: SplitRule


def read_split(split: str | Path) -> Split:
    """Return the split "coco-48-17", "lvis" or "all-base", or that of a user's file.

    coco-48-17: OV-COCO's 48 base and 17 novel concepts, the other 15 are "other"; every category of the file
    must have the id and name that COCO gives it. lvis: rare concepts are novel, common and frequent ones
    base. all-base: every concept is base. A file: see `split_file.read_split_file`. Raises UserError for an
    unknown name or an invalid file.
    """
    rule = _BUILT_IN.get(str(split))
    if rule is not None:
        return Split(str(split), rule)
    path = Path(split)
    if not path.is_file():
        near = nearest_name(str(split), _BUILT_IN)
        raise UserError(
            f"split {str(split)!r} is neither a file nor one of {', '.join(_BUILT_IN)}"
            f"{near or ': name one of these or give the path of a split file'}"
        )
    lists = read_split_file(path)
    return Split(path.name, lambda annotations: split_by_lists(annotations, lists, path))


def ov_coco(concepts: Iterable[Concept], where: str, step: str) -> list[Concept]:
    """Return the concepts with OV-COCO's splits.

    Raises UserError where an id or a name is not COCO's. The message begins with `where` and ends with
    `step`, the next step for the user.
    """
    known = {
        int(number): (name, split)
        for split, text in OV_COCO.items()
        for number, name in (entry.split(" ", 1) for entry in text.split(", "))
    }
    placed = []
    for concept in concepts:
        name, split = known.get(concept.category_id, ("", ""))
        if normalise_name(concept.name) != name:
            expected = f"must be {name!r} as in COCO" if name else "COCO has no category with that id"
            raise UserError(
                f"{where}: category {concept.category_id} is {concept.name!r} there and {expected}; {step}"
            )
        placed.append(replace(concept, split=split))
    return placed


def _coco_48_17(annotations: Annotations) -> list[Concept]:
    where = f"split coco-48-17 does not fit {annotations.path}"
    return ov_coco(annotations.concepts, where, "use --split all-base or a split file")


def _lvis(annotations: Annotations) -> list[Concept]:
    concepts = []
    for concept, count in zip(annotations.concepts, annotations.image_counts, strict=True):
        letter = concept.frequency
        if not letter and count is not None:
            letter = "r" if count <= LVIS_RARE_IMAGES else "c" if count <= LVIS_COMMON_IMAGES else "f"
        if not letter:
            raise UserError(
                f"split lvis does not fit {annotations.path}: category {concept.category_id} "
                f"({concept.name!r}) has neither 'frequency' (r, c, f) nor 'image_count'; use LVIS's own "
                "file, or another --split"
            )
        concepts.append(replace(concept, frequency=letter, split="novel" if letter == "r" else "base"))
    return concepts


def _all_base(annotations: Annotations) -> list[Concept]:
    return [replace(concept, split="base") for concept in annotations.concepts]


_BUILT_IN: dict[str, SplitRule] = {"coco-48-17": _coco_48_17, "lvis": _lvis, "all-base": _all_base}
