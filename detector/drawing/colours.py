"""Colours of concepts, and the contrast of text on them."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

Colour = tuple[int, int, int]
PAPER: Colour = (252, 252, 250)
INK: Colour = (34, 36, 42)
DIM: Colour = (92, 96, 106)


@lru_cache(maxsize=4096)
def colour_of(name: str) -> Colour:
    """Return a colour that depends only on the name of a concept: one of 24 hues in two strengths."""
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).digest()
    lightness, chroma = ((0.72, 0.16), (0.53, 0.17))[digest[1] % 2]
    return oklch(lightness, chroma, digest[0] % 24 * 15.0)


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """Convert Oklch (hue in degrees) to sRGB (Ottosson 2020); colours outside sRGB lose chroma, not hue."""
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
    """Return the relative luminance in [0, 1] (WCAG 2)."""
    channels = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """Return the WCAG contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink_on(colour: Colour) -> Colour:
    """Return white or near-black, whichever has more contrast with the colour."""
    white, black = (255, 255, 255), (18, 18, 22)
    return white if contrast(white, colour) >= contrast(black, colour) else black
