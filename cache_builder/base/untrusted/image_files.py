"""Open image files: which formats, how large, and what their EXIF orientation is."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import IO

from PIL import Image

MAX_PIXELS = 89_478_485
"""Largest photo, in pixels, that is decoded by default: a quarter of a gigabyte of RGB."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are decoded, by Pillow's names. Pillow also knows formats that start other programs, such as
Ghostscript for EPS. The contents of a file decide its format, not its name."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif"),
    *(".jpe", ".jfif", ".mpo"),
)
"""Endings of image files, in lower case, by which a folder is searched."""

EXIF_ORIENTATION = 0x0112
"""The EXIF tag that says how a viewer turns the stored pixels; 1 for not at all."""

_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257


class TooLarge(Image.DecompressionBombError):
    """An image with more pixels than allowed; the message is a reason for `BadPhoto`."""


def open_image(source: Path | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image in one of FORMATS without decoding its pixels; use it as a context manager.

    Raises PIL.UnidentifiedImageError for any other format, PIL.Image.DecompressionBombError for an image of
    more than `max_pixels`, and whatever the operating system or the decoder of the format raises.
    """
    image = Image.open(source, formats=known_formats())
    pixels = image.width * image.height
    if pixels > max_pixels:
        image.close()
        raise TooLarge(
            f"is {image.width} x {image.height} ({pixels / 1e6:.0f} megapixels), over the limit of "
            f"{max_pixels / 1e6:.0f}"
        )
    return image


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Return those of FORMATS that this Pillow can read. The first call loads its decoders."""
    Image.init()
    # Pillow would print a warning for what max_pixels refuses with one sentence.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the stored pixels of an open image.

    Pillow swaps the sides of a TIFF whose orientation does, and of no other format.
    """
    if image.format != "TIFF":
        return image.size
    tags: dict[int, int] = image.tag_v2  # type: ignore[attr-defined]
    return int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT])


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an open image, 1 to 8; 1 where it has none or its EXIF is broken."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF does not make the pixels invalid
        return 1
