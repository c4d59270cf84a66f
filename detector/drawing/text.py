"""Fonts and the width of text in images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans from matplotlib, which has the star; Pillow's default font without matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    try:
        from matplotlib import get_data_path

        return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)
    except (ImportError, OSError):
        fallback = ImageFont.load_default(size)
        assert isinstance(fallback, ImageFont.FreeTypeFont), f"expected a FreeType font, found {fallback}"
        return fallback


def fit_text(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """Return the text, with its end replaced by an ellipsis if it is wider than `width` px."""
    if face.getlength(text) <= width:
        return text
    while len(text) > 1 and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
