"""Where labels go: beside their box, inside the picture, and not on one another if it can be helped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import ImageFont

from detector.paint import Box


@dataclass(frozen=True)
class Chip:
    """A label: its text and its background's box in pixels of the canvas."""

    text: str
    box: Box


def place_chips(
    boxes: Sequence[Box],
    texts: Sequence[Sequence[str]],
    face: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    line: float,
    keys: Sequence[str],
) -> list[Chip | None]:
    """A place for each label, in the given order of importance.

    texts: of each label its wordings, the fullest first; a shorter one is taken where the full one finds no
    free place. Tried in turn: over the box's upper edge, under its lower one, inside its corners, beside it,
    then steps along its edges; of the free places the one that hides least. Where nothing is free the label
    is left out (None) if one of the same key (concept) stands already, since its colour says the same; else
    it overlaps as little as it can. Labels wider than the canvas are shortened.
    """
    chips: list[Chip | None] = []
    named: set[str] = set()
    for number, (box, wordings, key) in enumerate(zip(boxes, texts, keys, strict=True)):
        others = [other for i, other in enumerate(boxes) if i != number]
        taken = [chip.box for chip in chips if chip]
        options = []
        for wording in wordings:
            text = _shorten(wording, face, size[0] - face.size)
            overlap, chip = _best(text, box, face, size, line, others, taken)
            options.append((overlap, chip))
            if overlap < 0.02:
                break
        overlap, best = min(options, key=lambda option: option[0])
        keep = overlap < 0.1 or key not in named
        chips.append(best if keep else None)
        named.add(key)
    return chips


def _best(
    text: str,
    box: Box,
    face: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    line: float,
    others: Sequence[Box],
    taken: Sequence[Box],
) -> tuple[float, Chip]:
    """The best place for one wording, and the share of it that lies on earlier labels."""
    width, height = round(face.getlength(text) + face.size * 0.9), round(face.size * 1.5)
    best: tuple[float, float, Chip] | None = None
    for at, place in enumerate(_places(box, width, height, line)):
        place = _inside(place, size)
        overlap = round(sum(_shared(place, other) for other in taken) / (width * height), 2)
        # A label on another's small box hides what it is about; on a large one it does not matter.
        hidden = sum(_shared(place, other) / _area(other) for other in others)
        hidden += 0.5 * _shared(place, box) / _area(box)
        cost = round(hidden, 1) + 0.02 * at
        if best is None or (overlap, cost) < best[:2]:
            best = overlap, cost, Chip(text, place)
    assert best is not None
    return best[0], best[2]


def _places(box: Box, width: float, height: float, line: float) -> Iterator[Box]:
    left, top, right, bottom = box
    edge = line / 2
    starts = [
        (left - edge, top - height - edge),
        (left - edge, bottom + edge),
        (right - width + edge, top - height - edge),
        (right - width + edge, bottom + edge),
        (left + edge, top + edge),
        (left + edge, bottom - height - edge),
        (right - width - edge, top + edge),
        (right - width - edge, bottom - height - edge),
        (right + edge, top - edge),
        (left - width - edge, top - edge),
        (right + edge, bottom - height + edge),
        (left - width - edge, bottom - height + edge),
    ]
    for step in range(1, 6):
        starts += [
            (left - edge, top - (step + 1) * height - edge),
            (left - edge, bottom + step * height + edge),
            (left + edge, top + edge + step * height),
            (right + edge, top - edge + step * height),
            (left - width - edge, top - edge + step * height),
        ]
    for x, y in starts:
        yield x, y, x + width, y + height


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """The box moved into the canvas."""
    left = min(max(box[0], 0), max(0, size[0] - (box[2] - box[0])))
    top = min(max(box[1], 0), max(0, size[1] - (box[3] - box[1])))
    return left, top, left + box[2] - box[0], top + box[3] - box[1]


def _shared(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _area(box: Box) -> float:
    return max(1.0, (box[2] - box[0]) * (box[3] - box[1]))


def _shorten(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    if face.getlength(text) <= width:
        return text
    while len(text) > 1 and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
