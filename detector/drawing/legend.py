"""The legend below pictures: what outlines, stars and other symbols mean."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from PIL import Image, ImageDraw

from cckt.detector.drawing.colours import DIM, PAPER, oklch
from cckt.detector.drawing.outlines import cross_out, outline
from cckt.detector.drawing.text import font

Verdict = Literal["", "right", "wrong", "missed"]
"""What the annotations say about a detection, or that an annotated object has none; "" if not known."""
STAR = "★"
SYMBOLS: dict[Verdict, str] = {"": "", "right": "✓", "wrong": "✗", "missed": "○"}
COLOUR = oklch(0.56, 0.18, 255.0)
_VERDICTS: dict[Verdict, str] = {
    "right": "right",
    "wrong": "wrong: no such object, or found twice",
    "missed": "missed: annotated, not found",
}


def legend_strip(width: int, size: int, kinds: Collection[tuple[bool, Verdict]]) -> Image.Image:
    """Return a legend, `width` px wide; its entries wrap if it is narrow.

    size: of the text in px. kinds: (novel, verdict) of the marks that it explains.
    """
    entries: list[tuple[bool, Verdict, str]] = []
    found = {novel for novel, verdict in kinds if verdict != "missed"}
    if True in found or (True, "missed") in kinds:
        entries.append((True, "", f"{STAR} novel: never annotated in training"))
    if False in found and entries:
        entries.append((False, "", "base: annotated in training"))
    named = {verdict for _, verdict in kinds}
    entries += [(False, one, f"{SYMBOLS[one]} {text}") for one, text in _VERDICTS.items() if one in named]
    face = font(max(11, round(size * 0.85)))
    pad, row = size, round(size * 2.0)
    places: list[tuple[int, int]] = []
    x, y = pad, 0
    for _, _, text in entries:
        wide = round(face.getlength(text)) + 3 * size
        if x > pad and x + wide > width:
            x, y = pad, y + row
        places.append((x, y))
        x += wide + pad
    strip = Image.new("RGB", (width, y + row), PAPER)
    draw = ImageDraw.Draw(strip)
    line = max(2.0, size / 7)
    for (novel, verdict, text), (x, y) in zip(entries, places, strict=True):
        box = (float(x), y + row * 0.22, float(x + 2.2 * size), y + row * 0.78)
        outline(strip, box, COLOUR, line, dashed=novel, halo=novel, dotted=verdict == "missed")
        if verdict == "wrong":
            cross_out(strip, box, COLOUR, line)
        draw.text((x + 2.6 * size, y + row / 2), text, font=face, fill=DIM, anchor="lm")
    return strip
