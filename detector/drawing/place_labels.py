"""Choose positions of labels: near their box, inside the image, and without overlap if possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ImageFont

from cckt.detector.drawing.outlines import Box
from cckt.detector.drawing.text import fit_text

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """A label: its text, and the box of its background in pixels of the canvas."""

    text: str
    box: Box


def place_labels(
    boxes: Sequence[Box],
    texts: Sequence[Sequence[str]],
    face: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    line: float,
    keys: Sequence[str],
) -> list[Label | None]:
    """Return a label for each box, or None if it is left out. Boxes are in order of importance.

    texts: for each label its wordings, the longest first; a shorter one is used if the longer finds no free
    position. Candidates are above the upper edge of the box, below the lower edge, inside the corners, at the
    sides, then steps along the edges; of the free ones, the one that hides least is chosen. If none is free,
    the label is left out if a label with the same key (concept, so the same colour) exists; else the
    candidate with the least overlap is chosen. Labels wider than the canvas are shortened.
    """
    labels: list[Label | None] = []
    named: set[str] = set()
    for number, (box, wordings, key) in enumerate(zip(boxes, texts, keys, strict=True)):
        others = [other for i, other in enumerate(boxes) if i != number]
        taken = [label.box for label in labels if label]
        options = []
        for wording in wordings:
            text = fit_text(wording, face, size[0] - face.size)
            overlap, label = _best(text, box, face, size, line, others, taken)
            options.append((overlap, label))
            if overlap < 0.02:
                break
        overlap, best = min(options, key=lambda option: option[0])
        keep = overlap < 0.1 or key not in named
        labels.append(best if keep else None)
        named.add(key)
    return labels


def label_size(text: str, face: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return width and height in px of a label with its background."""
    return round(face.getlength(text) + face.size * 0.9), round(face.size * 1.5)


def _best(
    text: str,
    box: Box,
    face: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    line: float,
    others: Sequence[Box],
    taken: Sequence[Box],
) -> tuple[float, Label]:
    """Return the share of a label that covers earlier labels, and the label, at the best position."""
    width, height = label_size(text, face)
    places = _inside(np.array(list(_places(box, width, height, line))), size)
    overlap = _shared(places, taken).sum(1).round() / (width * height)
    # Covering a small box hides its object; covering part of a large one does not.
    hidden = (_shared(places, others) / _area(others)).sum(1)
    hidden += 0.5 * (_shared(places, [box]) / _area([box])).sum(1)
    cost = hidden.round(1) + 0.02 * np.arange(len(places))
    best = np.lexsort((cost, overlap.round(2)))[0]
    left, top, right, bottom = places[best].tolist()
    return float(overlap[best]), Label(text, (left, top, right, bottom))


def _places(box: Box, width: float, height: float, line: float) -> Iterator[Box]:
    """Yield the candidate positions of a label, best first."""
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
    """Return (P, 4) boxes moved into the canvas."""
    sides = places[:, 2:] - places[:, :2]
    low = np.minimum(np.maximum(places[:, :2], 0), np.maximum(0, np.array(size) - sides))
    return np.concatenate([low, low + sides], 1)


def _shared(places: Floats, others: Sequence[Box]) -> Floats:
    """Return (P, O) px^2, the area that each position shares with each other box."""
    boxes = np.array(others, np.float64).reshape(-1, 4)
    low = np.maximum(places[:, None, :2], boxes[None, :, :2])
    high = np.minimum(places[:, None, 2:], boxes[None, :, 2:])
    shared: Floats = np.prod(np.clip(high - low, 0, None), 2)
    return shared


def _area(boxes: Sequence[Box]) -> Floats:
    """Return (O,) areas in px^2, at least 1."""
    table = np.array(boxes, np.float64).reshape(-1, 4)
    area: Floats = np.maximum(1.0, np.prod(table[:, 2:] - table[:, :2], 1))
    return area
