"""Which concepts may be trained on (base), are to be found (novel), or are left aside (other)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache_builder.errors import UserError
from cache_builder.vocabulary import SPLITS, Concept, nearest_name, normalise_name

# OV-COCO (Bansal et al. 2018; the lists of ovr-cnn and Detic): COCO's category id and name.
OV_COCO = {
    "base": "1 person, 2 bicycle, 3 car, 4 motorcycle, 7 train, 8 truck, 9 boat, 15 bench, 16 bird, 19 horse, "
    "20 sheep, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 31 handbag, 33 suitcase, 34 frisbee, 35 skis, "
    "38 kite, 42 surfboard, 44 bottle, 48 fork, 50 spoon, 51 bowl, 52 banana, 53 apple, 54 sandwich, 55 orange, "
    "56 broccoli, 57 carrot, 59 pizza, 60 donut, 62 chair, 65 bed, 70 toilet, 72 tv, 73 laptop, 74 mouse, "
    "75 remote, 78 microwave, 79 oven, 80 toaster, 82 refrigerator, 84 book, 85 clock, 86 vase, 90 toothbrush",
    "novel": "5 airplane, 6 bus, 17 cat, 18 dog, 21 cow, 22 elephant, 28 umbrella, 32 tie, 36 snowboard, "
    "41 skateboard, 47 cup, 49 knife, 61 cake, 63 couch, 76 keyboard, 81 sink, 87 scissors",
    "other": "10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter, 37 sports ball, 39 baseball bat, "
    "40 baseball glove, 43 tennis racket, 46 wine glass, 58 hot dog, 64 potted plant, 67 dining table, "
    "77 cell phone, 88 teddy bear, 89 hair drier",
}

# LVIS: a category in at most 10 photos of the training set is rare, in at most 100 common.
LVIS_RARE_IMAGES, LVIS_COMMON_IMAGES = 10, 100

Entry = int | str


def split_concepts(
    concepts: Sequence[Concept], split: str | Path, image_counts: Sequence[int | None], source: Path
) -> tuple[list[Concept], str]:
    """Give every concept its split; return them with the split's name (a built-in's, or the file's name).

    concepts: C concepts of the annotation file, in row order; their own split is overwritten.
    split: "coco-48-17", "lvis", "all-base", or the path of a JSON or text file (docs of `read_split_file`).
    image_counts: C training photos a category (LVIS's `image_count`), None where the file does not say.
    Raises UserError when the split and the file's categories do not fit each other.
    """
    rule = _BUILT_IN.get(str(split))
    if rule is not None:
        return rule(concepts, image_counts, source), str(split)
    path = Path(split)
    if not path.is_file():
        near = nearest_name(str(split), _BUILT_IN)
        raise UserError(
            f"split {str(split)!r} is neither a file nor one of {', '.join(_BUILT_IN)}"
            f"{near or ': name one of these or give the path of a split file'}"
        )
    return _by_lists(concepts, read_split_file(path), path, source), path.name


def _coco_48_17(concepts: Sequence[Concept], _: Sequence[int | None], source: Path) -> list[Concept]:
    known = {}
    for split, text in OV_COCO.items():
        for entry in text.split(", "):
            number, name = entry.split(" ", 1)
            known[int(number)] = (name, split)
    for concept in concepts:
        name, _split = known.get(concept.category_id, ("", ""))
        if normalise_name(concept.name) != name:
            found = f"category {concept.category_id} is {concept.name!r}"
            expected = f"COCO's is {name!r}" if name else "COCO has no category of that id"
            raise UserError(
                f"split coco-48-17 does not fit {source}: {found} there and {expected}; "
                "use --split all-base or a split file of your own"
            )
    return [replace(concept, split=known[concept.category_id][1]) for concept in concepts]


def _lvis(concepts: Sequence[Concept], image_counts: Sequence[int | None], source: Path) -> list[Concept]:
    result = []
    for concept, count in zip(concepts, image_counts, strict=True):
        letter = concept.frequency
        if not letter and count is not None:
            letter = "r" if count <= LVIS_RARE_IMAGES else "c" if count <= LVIS_COMMON_IMAGES else "f"
        if not letter:
            raise UserError(
                f"split lvis does not fit {source}: category {concept.category_id} ({concept.name!r}) has neither "
                "'frequency' (r, c, f) nor 'image_count'; use the file as LVIS publishes it, or another --split"
            )
        result.append(replace(concept, frequency=letter, split="novel" if letter == "r" else "base"))
    return result


def _all_base(concepts: Sequence[Concept], _: Sequence[int | None], __: Path) -> list[Concept]:
    return [replace(concept, split="base") for concept in concepts]


_Rule = Callable[[Sequence[Concept], Sequence[int | None], Path], list[Concept]]
_BUILT_IN: dict[str, _Rule] = {"coco-48-17": _coco_48_17, "lvis": _lvis, "all-base": _all_base}


def read_split_file(path: Path) -> dict[str, list[Entry]]:
    """Read a user's split: which names or category ids are base, novel, other.

    JSON: an object with the lists "base", "novel" and, if wanted, "other"; entries are names, integer ids, or
    objects with "id" and "name". Other keys are allowed where they hold plain text (a source, a comment).
    Text: the headings `base:`, `novel:`, `other:` on lines of their own, under them one name or id a line;
    blank lines and lines starting with `#` do not count.

    What no list names is "other"; but where the "base" list is left out, what no list names is base (and
    where "novel" alone is left out, nothing is novel). Raises UserError with the line or key at fault.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: expected a split file, JSON or text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    lists = _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _from_text(text, path)
    if not any(lists.get(split) for split in ("base", "novel")):
        raise UserError(f"{path} names no base and no novel concept: fill its 'base' or 'novel' list")
    return lists


def _from_json(text: str, path: Path) -> dict[str, list[Entry]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; repair it"
        ) from None
    expected = 'expected {"base": [names or ids], "novel": [names or ids]}'
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a list, not a split: {expected}")
    lists: dict[str, list[Entry]] = {}
    for key, value in content.items():
        if key not in SPLITS:
            if isinstance(value, str):
                continue
            raise UserError(
                f"{path} has the unknown key {key!r}{nearest_name(key, SPLITS) or ': ' + expected}"
            )
        if not isinstance(value, list):
            raise UserError(f"{path}: {key!r} is no list; {expected}")
        lists[key] = [_json_entry(entry, key, path) for entry in value]
    return lists


def _json_entry(entry: Any, key: str, path: Path) -> Entry:
    if isinstance(entry, dict):
        entry = entry.get("name", entry.get("id"))
    if isinstance(entry, str) or (isinstance(entry, int) and not isinstance(entry, bool)):
        return entry
    raise UserError(f"{path}: {entry!r} in {key!r} is neither a name nor an integer category id")


def _from_text(text: str, path: Path) -> dict[str, list[Entry]]:
    lists: dict[str, list[Entry]] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry.endswith(":") and entry[:-1].strip().lower() in SPLITS:
            section = entry[:-1].strip().lower()
            lists.setdefault(section, [])
        elif not section:
            raise UserError(
                f"{path}, line {number}: {entry!r} stands under no heading; "
                "write 'base:' or 'novel:' on a line above it"
            )
        else:
            lists[section].append(entry)
    return lists


def _by_lists(
    concepts: Sequence[Concept], lists: dict[str, list[Entry]], path: Path, source: Path
) -> list[Concept]:
    by_id = {concept.category_id: row for row, concept in enumerate(concepts)}
    by_name: dict[str, list[int]] = {}
    for row, concept in enumerate(concepts):
        by_name.setdefault(normalise_name(concept.name), []).append(row)
    given: dict[int, str] = {}
    for split, entries in lists.items():
        for entry in entries:
            for row in _rows_of(entry, by_id, by_name, concepts, path, source):
                if given.setdefault(row, split) != split:
                    raise UserError(
                        f"{path} puts {concepts[row].name!r} into both {given[row]!r} and {split!r}: keep one"
                    )
    rest = "other" if "base" in lists else "base"
    return [replace(concept, split=given.get(row, rest)) for row, concept in enumerate(concepts)]


def _rows_of(
    entry: Entry,
    by_id: dict[int, int],
    by_name: dict[str, list[int]],
    concepts: Sequence[Concept],
    path: Path,
    source: Path,
) -> list[int]:
    """Rows of a name (all that carry it) or of an id; a text that is no name may be an id in digits."""
    if isinstance(entry, str):
        rows = by_name.get(normalise_name(entry))
        if rows:
            return rows
        entry = int(entry) if entry.isascii() and entry.isdigit() else entry
    if isinstance(entry, int) and entry in by_id:
        return [by_id[entry]]
    what = f"category id {entry}" if isinstance(entry, int) else f"category {entry!r}"
    near = "" if isinstance(entry, int) else nearest_name(entry, [concept.name for concept in concepts])
    raise UserError(
        f"{path} names {what}, which {source} does not have{near or ': remove it from the split or use another file'}"
    )
