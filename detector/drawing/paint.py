"""Colours, fonts and anti-aliased outlines for draw.py."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
PAPER: Colour = (252, 252, 250)
INK: Colour = (34, 36, 42)
DIM: Colour = (92, 96, 106)
FINE = 3
"""Outlines are drawn this many times larger and shrunk, which smooths them."""


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it (it has the star); Pillow's own font without matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    try:
        from matplotlib import get_data_path

        return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)
    except (ImportError, OSError):
        fallback = ImageFont.load_default(size)
        assert isinstance(fallback, ImageFont.FreeTypeFont)
        return fallback


@lru_cache(maxsize=4096)
def colour_of(name: str) -> Colour:
    """A clear colour that follows from the concept's name alone: one of 24 hues in two strengths."""
    digest = hashlib.sha256(name.encode()).digest()
    lightness, chroma = ((0.72, 0.16), (0.53, 0.17))[digest[1] % 2]
    return oklch(lightness, chroma, digest[0] % 24 * 15.0)


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """Oklch (hue in degrees) as sRGB; colours that sRGB lacks lose chroma, not hue. Source: Ottosson 2020."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    if chroma > 0.01 and not all(-0.001 <= c <= 1.001 for c in linear):
        return oklch(lightness, chroma - 0.01, hue)
    red, green, blue = (_gamma(min(1.0, max(0.0, c))) for c in linear)
    return red, green, blue


def _gamma(c: float) -> int:
    return round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055))


def luminance(colour: Colour) -> float:
    """Relative luminance in [0, 1] (WCAG 2)."""
    channels = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """WCAG contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink_on(colour: Colour) -> Colour:
    """White or near-black, whichever reads better on the colour."""
    white, black = (255, 255, 255), (18, 18, 22)
    return white if contrast(white, colour) >= contrast(black, colour) else black


def outline(
    canvas: Image.Image, box: Box, colour: Colour, width: float, *, dashed: bool = False, halo: bool = True
) -> None:
    """A rounded rectangle, in place. dashed: thicker, white underneath and dashes of the colour above.

    halo: a thin dark edge on both sides, so that the line is seen on any photo.
    """
    if dashed:
        width *= 1.35
    margin = math.ceil(width * 2)
    left, top = math.floor(box[0]) - margin, math.floor(box[1]) - margin
    size = (math.ceil(box[2]) + margin - left, math.ceil(box[3]) + margin - top)
    inner = tuple((v - o) * FINE for v, o in zip(box, (left, top, left, top), strict=True))
    path = _rounded_path(inner, min(3.2 * width * FINE, (inner[2] - inner[0]) / 3, (inner[3] - inner[1]) / 3))
    layers: list[tuple[Colour, int, float, bool]] = [(colour, 255, width, dashed)]
    if dashed:
        layers.insert(0, ((255, 255, 255), 255, width, False))
    if halo:
        layers.insert(0, ((0, 0, 0), 110, width + 2 * max(1.0, width / 4), False))
    for tint, alpha, thick, broken in layers:
        mask = Image.new("L", (size[0] * FINE, size[1] * FINE), 0)
        draw = ImageDraw.Draw(mask)
        for piece in _dashes(path, 4.2 * width * FINE, 2.6 * width * FINE) if broken else [path]:
            _stroke(draw, piece, thick * FINE, alpha)
        canvas.paste(Image.new("RGB", size, tint), (left, top), mask.resize(size, Image.Resampling.BOX))


def _rounded_path(box: tuple[float, ...], radius: float) -> list[tuple[float, float]]:
    """The closed outline, clockwise from the upper left, about a point a pixel in the corners."""
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
    """The path cut into dashes, stretched so that a whole number fits."""
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
    draw.line(path, fill=alpha, width=max(1, round(width)), joint="curve")
    radius = width / 2
    for x, y in (path[0], path[-1]):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=alpha)
