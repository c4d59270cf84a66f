"""Open one image for prediction."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.photos import BadPhoto, load_photo, to_rgb

Photo = str | Path | Image.Image
"""An image as a user gives it: a path, or a Pillow image."""


def open_photo(photo: Photo, strict: bool) -> tuple[Image.Image, str, str]:
    """Return an RGB image, its name, and the reason if it is unreadable ("" if it is not).

    Raises UserError for another type, and for an unreadable image if `strict`.
    """
    if not isinstance(photo, str | Path | Image.Image):
        raise UserError(
            f"found an image of type {type(photo).__name__}, expected a path or a Pillow image; convert an "
            "array of uint8 pixels with PIL.Image.fromarray."
        )
    name = str(getattr(photo, "filename", "")) if isinstance(photo, Image.Image) else str(photo)
    try:
        if isinstance(photo, Image.Image):
            return to_rgb(photo), name, ""
        return load_photo(Path(photo)), name, ""
    except (BadPhoto, ValueError, OSError) as fault:
        if strict:
            raise UserError(f"{fault}; give a photo that can be opened, or leave it out.") from None
        return Image.new("RGB", (1, 1)), name, str(fault)
