"""Where labels go: beside their box, inside the picture, and not on one another if it can be helped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ImageFont

from cckt.detector.drawing.paint import Box

Floats = npt.NDArray[np.float64]


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
    places = _inside(np.array(list(_places(box, width, height, line))), size)
    overlap = _shared(places, taken).sum(1).round() / (width * height)
    # A label on another's small box hides what it is about; on a large one it does not matter.
    hidden = (_shared(places, others) / _area(others)).sum(1)
    hidden += 0.5 * (_shared(places, [box]) / _area([box])).sum(1)
    cost = hidden.round(1) + 0.02 * np.arange(len(places))
    best = np.lexsort((cost, overlap.round(2)))[0]
    left, top, right, bottom = places[best].tolist()
    return float(overlap[best]), Chip(text, (left, top, right, bottom))


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


def _inside(places: Floats, size: tuple[int, int]) -> Floats:
    """(P, 4) boxes moved into the canvas."""
    sides = places[:, 2:] - places[:, :2]
    low = np.minimum(np.maximum(places[:, :2], 0), np.maximum(0, np.array(size) - sides))
    return np.concatenate([low, low + sides], 1)


def _shared(places: Floats, others: Sequence[Box]) -> Floats:
    """(P, O) px^2 of each place that lies on each other box."""
    boxes = np.array(others, np.float64).reshape(-1, 4)
    low = np.maximum(places[:, None, :2], boxes[None, :, :2])
    high = np.minimum(places[:, None, 2:], boxes[None, :, 2:])
    shared: Floats = np.prod(np.clip(high - low, 0, None), 2)
    return shared


def _area(boxes: Sequence[Box]) -> Floats:
    """(O,) px^2, at least 1."""
    table = np.array(boxes, np.float64).reshape(-1, 4)
    area: Floats = np.maximum(1.0, np.prod(table[:, 2:] - table[:, :2], 1))
    return area


def _shorten(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    if face.getlength(text) <= width:
        return text
    while len(text) > 1 and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
