"""Anti-aliased outlines of boxes."""

from __future__ import annotations

import math
from itertools import pairwise

from PIL import Image, ImageDraw

from cckt.detector.drawing.colours import Colour

Box = tuple[float, float, float, float]
OVERSAMPLING = 3
"""Outlines are drawn this many times larger and then reduced, which smooths them."""


def outline(
    canvas: Image.Image,
    box: Box,
    colour: Colour,
    width: float,
    *,
    dashed: bool = False,
    halo: bool = True,
    dotted: bool = False,
) -> None:
    """Draw a rounded rectangle in place. dashed: a thicker white line with dashes of the colour on it.

    halo: add a thin dark edge on both sides, which keeps the line visible on any image. dotted: only dots of
    the colour, each with its edge.
    """
    if dashed:
        width *= 1.35
    margin = math.ceil(width * 2)
    left, top = math.floor(box[0]) - margin, math.floor(box[1]) - margin
    size = (math.ceil(box[2]) + margin - left, math.ceil(box[3]) + margin - top)
    inner = tuple((v - o) * OVERSAMPLING for v, o in zip(box, (left, top, left, top), strict=True))
    path = _rounded_path(
        inner, min(3.2 * width * OVERSAMPLING, (inner[2] - inner[0]) / 3, (inner[3] - inner[1]) / 3)
    )
    layers: list[tuple[Colour, int, float, bool]] = [(colour, 255, width, dashed or dotted)]
    if dashed:
        layers.insert(0, ((255, 255, 255), 255, width, False))
    if halo:
        layers.insert(0, ((0, 0, 0), 110, width + 2 * max(1.0, width / 4), dotted))
    on = 0.6 if dotted else 4.2
    for tint, alpha, thick, broken in layers:
        mask = Image.new("L", (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING), 0)
        draw = ImageDraw.Draw(mask)
        for piece in (
            _dashes(path, on * width * OVERSAMPLING, 2.6 * width * OVERSAMPLING) if broken else [path]
        ):
            _stroke(draw, piece, thick * OVERSAMPLING, alpha)
        canvas.paste(Image.new("RGB", size, tint), (left, top), mask.resize(size, Image.Resampling.BOX))


def cross_out(canvas: Image.Image, box: Box, colour: Colour, width: float) -> None:
    """Draw a diagonal through a box in place, from the lower left: white, with a line of the colour on it."""
    left, top, right, bottom = box
    origin = (math.floor(left), math.floor(top))
    size = (max(1, math.ceil(right) - origin[0]), max(1, math.ceil(bottom) - origin[1]))
    path = [
        ((x - origin[0]) * OVERSAMPLING, (y - origin[1]) * OVERSAMPLING)
        for x, y in ((left, bottom), (right, top))
    ]
    for tint, thick in (((255, 255, 255), 2.2 * width), (colour, width)):
        mask = Image.new("L", (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING), 0)
        _stroke(ImageDraw.Draw(mask), path, thick * OVERSAMPLING, 255)
        canvas.paste(Image.new("RGB", size, tint), origin, mask.resize(size, Image.Resampling.BOX))


def _rounded_path(box: tuple[float, ...], radius: float) -> list[tuple[float, float]]:
    """Return the closed outline, clockwise from the upper left, about one point per pixel in the corners."""
    left, top, right, bottom = box
    corners = (
        (right - radius, top + radius, -90),
        (right - radius, bottom - radius, 0),
        (left + radius, bottom - radius, 90),
        (left + radius, top + radius, 180),
    )
    steps = max(4, int(radius / 2))
    path = [
        (x + radius * math.cos(angle), y + radius * math.sin(angle))
        for x, y, start in corners
        for angle in (math.radians(start + 90 * step / steps) for step in range(steps + 1))
    ]
    return [*path, path[0]]


def _dashes(path: list[tuple[float, float]], on: float, off: float) -> list[list[tuple[float, float]]]:
    """Cut the path into dashes, with lengths adjusted so that an integer number fits."""
    lengths = [math.dist(a, b) for a, b in pairwise(path)]
    count = max(4, round(sum(lengths) / (on + off)))
    period = sum(lengths) / count
    on = period * on / (on + off)
    pieces: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    at = 0.0
    for ((x0, y0), (x1, y1)), length in zip(pairwise(path), lengths, strict=True):
        cuts = {0.0, length}
        first = math.floor(at / period)
        for number in range(first, math.floor((at + length) / period) + 1):
            cuts |= {c for c in (number * period - at, number * period + on - at) if 0 < c < length}
        points = sorted(cuts)
        for low, high in pairwise(points):
            middle = at + (low + high) / 2
            number = min(count - 1, math.floor(middle / period))
            if middle - number * period < on:
                for cut in (low, high):
                    pieces[number].append((x0 + (x1 - x0) * cut / length, y0 + (y1 - y0) * cut / length))
        at += length
    return [piece for piece in pieces if piece]


def _stroke(draw: ImageDraw.ImageDraw, path: list[tuple[float, float]], width: float, alpha: int) -> None:
    # The points of corners are so dense that joints would not be seen; drawing them takes most of the time.
    draw.line(path, fill=alpha, width=max(1, round(width)))
    radius = width / 2
    for x, y in (path[0], path[-1]):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=alpha)
