"""The 65 concepts of shapeworld with one to six drawings each, and the other words of its teacher.

The drawings are pictographs of the font DejaVu Sans, which matplotlib ships. A concept has a common name
("umbrella", "chess knight") and the Unicode characters that draw it. Like OV-COCO it has 48 base concepts and
17 novel ones (cat, cow, umbrella, scissors, airplane, cup, keyboard ...). All other pictographs of the font,
under their Unicode names, are the other words: the teacher is trained on them, images show some of them, and
no data set annotates them.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

BASE: dict[str, str] = {
    "chess king": "♔♚",
    "chess queen": "♕♛",
    "chess rook": "♖♜",
    "chess bishop": "♗♝",
    "chess pawn": "♙♟",
    "snowman": "☃",
    "cloud": "☁",
    "sun": "☀☼",
    "comet": "☄",
    "star": "★☆✪✭",
    "envelope": "✉",
    "pencil": "✎✏✐",
    "fountain pen nib": "✑✒",
    "pointing hand": "☚☛☜☝☞☟",
    "victory hand": "✌",
    "writing hand": "✍",
    "skull and crossbones": "☠",
    "radiation sign": "☢",
    "biohazard sign": "☣",
    "caduceus": "☤⚚",
    "ankh": "☥",
    "peace symbol": "☮",
    "yin yang": "☯",
    "ship wheel": "☸",
    "smiling face": "☺☻😃",
    "frowning face": "☹😦",
    "spade": "♠♤",
    "club": "♣♧",
    "diamond": "♦♢",
    "hot spring": "♨",
    "musical note": "♩♪",
    "sharp sign": "♯",
    "recycling symbol": "♲♻",
    "wheelchair": "♿",
    "hammer and pick": "⚒",
    "crossed swords": "⚔",
    "scales": "⚖",
    "alembic": "⚗",
    "flower": "⚘✿❀",
    "atom": "⚛",
    "fleur-de-lis": "⚜",
    "warning sign": "⚠",
    "lightning bolt": "⚡☇",
    "coffin": "⚰",
    "urn": "⚱",
    "shamrock": "☘",
    "mouse": "🐭",
    "monkey": "🐵",
}
NOVEL: dict[str, str] = {
    "umbrella": "☂☔",
    "airplane": "✈",
    "scissors": "✁✂✄",
    "cat": "🐱😺😸",
    "cow": "🐮",
    "cup": "☕",
    "keyboard": "⌨",
    "chess knight": "♘♞",
    "snowflake": "❄❅❆",
    "anchor": "⚓",
    "heart": "♥♡❤",
    "crescent moon": "☽☾",
    "telephone": "☎☏",
    "die": "⚀⚁⚂⚃⚄⚅",
    "beamed notes": "♫♬",
    "flag": "⚐⚑",
    "gear": "⚙",
}
CONCEPTS: tuple[str, ...] = tuple(sorted(BASE | NOVEL))
"""All concepts; category id k is CONCEPTS[k - 1]."""

_CELL = 96
"""Size in pixels at which each drawing is rasterised once; images resample it."""
_BLOCKS = ((0x2300, 0x23FF), (0x2600, 0x27BF), (0x2B00, 0x2BFF), (0x1F0A1, 0x1F0DF), (0x1F400, 0x1F6FF))
# Strokes, brackets and ticks, which are not objects, and playing cards, which are unreadable when small.
_NOT_THINGS = (
    "BRACKET",
    "PARENTHESIS",
    "INTEGRAL",
    "LINE",
    "BAR",
    "CORNER",
    "CROP",
    "CEILING",
    "FLOOR",
    "QUOTATION",
    "MONOGRAM",
    "DIGRAM",
    "APL",
    "SMALL",
    "DIGIT",
    "NUMBER",
    "PLAYING CARD",
)
# Names of characters that look too similar to one of the 65 concepts.
_NEAR = (
    "UMBRELLA",
    "SCISSORS",
    "HEART",
    "SNOWFLAKE",
    "TELEPHONE",
    "STAR",
    "SMILING",
    "FLORETTE",
    "SUN",
    "PENCIL",
    "RECYCLING",
    "BLADE",
    "FROWNING",
    "AESCULAPIUS",
    "CAT FACE",
)


def drawings(concept: str) -> str:
    """Return the characters that draw one of CONCEPTS."""
    return BASE[concept] if concept in BASE else NOVEL[concept]


@cache
def other_words() -> dict[str, str]:
    """Return the other pictographs of the font: Unicode name in lower case -> character.

    None of them draws one of the 65 concepts. They are further words of the teacher, classes for the training
    of the backbone, and unannotated objects in images.
    """
    taken = set("".join((BASE | NOVEL).values()))
    words = {}
    for start, stop in _BLOCKS:
        for code in range(start, stop + 1):
            name = unicodedata.name(chr(code), "")
            if not name or chr(code) in taken or any(word in name for word in (*_NEAR, *_NOT_THINGS)):
                continue
            if _in_font(chr(code)):
                words[name.lower()] = chr(code)
    return words


@cache
def letters() -> tuple[str, ...]:
    """Return letters of several scripts: distractors in images, and classes for the backbone."""
    blocks: tuple[tuple[int, int], ...] = (
        (0x41, 0x5A),
        (0x61, 0x7A),
        (0x391, 0x3C9),
        (0x410, 0x44F),
        (0x531, 0x556),
        (0x561, 0x586),
    )
    blocks += ((0x10A0, 0x10C5), (0x10D0, 0x10F0), (0x2D30, 0x2D65), (0x5D0, 0x5EA), (0xE81, 0xEAE))
    return tuple(chr(c) for start, stop in blocks for c in range(start, stop + 1) if _in_font(chr(c)))


@cache
def raster(character: str) -> Image.Image:
    """Return the drawing of a character: a mode "L" image of its ink, cropped, long side 96 pixels."""
    left, top, right, bottom = _font(_CELL).getbbox(character)
    size = (int(right - left) + 4, int(bottom - top) + 4)
    mask = Image.new("L", size)
    ink = _font(_CELL).getmask(character, mode="L")
    glyph = Image.frombytes("L", ink.size, bytes(ink))
    mask.paste(glyph, (2, 2))
    mask = mask.crop(mask.getbbox())
    scale = _CELL / max(mask.size)
    return mask.resize(
        (max(4, round(mask.width * scale)), max(4, round(mask.height * scale))), Image.Resampling.LANCZOS
    )


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # slow to import, and only the renderer needs it

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _in_font(character: str) -> bool:
    """Return whether the font has a glyph for `character`, not only the box for missing ones."""
    missing = np.asarray(_font(24).getmask("\U0010fffe", mode="L"))
    ink = np.asarray(_font(24).getmask(character, mode="L"))
    return (
        ink.size > 0 and bool(ink.any()) and not (ink.shape == missing.shape and bool((ink == missing).all()))
    )
