"""Photos from disk to RGB pixels, and a clear word about the ones that cannot be read.

A data set of a hundred thousand photos holds a few that are missing, cut short or not photos at all. None of
them may stop a run of hours, and none may be replaced by another: each is a `BadPhoto` with a reason, which
the columns turn into invalid rows and one line in the report.

Decisions, all of them visible in the pixels:

* **Orientation.** COCO-format boxes are drawn on the pixels as stored: the COCO API, and the loaders built
  on it, ignore the EXIF orientation. So do we, as long as the stored size is the size in the annotations. If
  only the rotated size is that one, whoever annotated saw the rotated photo, and it is rotated. Neither: the
  boxes belong to another file, and the photo is bad.
* **Transparency** is laid over white: the colour under a transparent pixel is whatever the editor left
  there, often black.
* **16 bits** are scaled to 8 (v / 257, rounded), not clipped as Pillow's own conversion of such greys is.
* **Animations** give their first frame. Colour profiles are ignored, as open_clip ignores them.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index

MAX_PIXELS = 89_478_485
"""Largest photo, in pixels, that is decoded by default: a quarter of a gigabyte of RGB."""

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


class BadPhoto(Exception):
    """A photo that cannot be used, and why. Its rows stay invalid; the run goes on.

    `path` names the file; `reason` is a phrase that fits after "PATH: ".
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both as args: the exception crosses process borders by pickle
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def load_photo(
    path: Path, size: tuple[int, int] | None = None, *, max_pixels: int = MAX_PIXELS, reduction: int = 1
) -> Image.Image:
    """Decode `path` to a Pillow image of mode RGB, 8 bits a channel.

    `size` is (width, height) in pixels as the annotations have it and decides the orientation (see above);
    without it the EXIF orientation is followed, which is what a person sees in any viewer.

    reduction: 1, 2, 4 or 8; a JPEG is decoded at 1/reduction of its size, sides rounded up, which is faster.
    Other kinds of photos come in full size.

    Raises BadPhoto, and nothing else, for whatever is wrong with the file or its size.
    """
    _check_file(path)
    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise BadPhoto(
                    path,
                    f"is {image.width} x {image.height} ({pixels / 1e6:.0f} megapixels), over the limit of "
                    f"{max_pixels / 1e6:.0f}",
                )
            if image.format != "JPEG":
                image.load()  # other kinds may tell their orientation after the pixels
            turn, stored = _turn(image, size), image.size
            if reduction > 1:
                image.draft(None, (max(1, image.width // reduction), max(1, image.height // reduction)))
            rgb = to_rgb(image)
    except BadPhoto:
        raise
    except UnidentifiedImageError:
        raise BadPhoto(path, "is not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise BadPhoto(path, f"has over {max_pixels / 1e6:.0f} megapixels, the limit") from None
    except Exception as fault:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, KeyError ...
        raise BadPhoto(path, f"cannot be decoded: {_phrase(fault)}") from None
    if turn is not None:
        rgb = rgb.transpose(turn)
    shown = stored[::-1] if turn in _SWAPS_SIDES else stored
    if size is not None and shown != tuple(size):
        raise BadPhoto(path, f"is {shown[0]} x {shown[1]} where the annotations say {size[0]} x {size[1]}")
    return rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded Pillow image of any mode to RGB by the rules at the top of this file.

    Raises ValueError for modes whose range of values nobody has agreed on (32-bit and floating-point greys).
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()  # the copy outlives the open file
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} (32-bit grey) have no agreed range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layered).convert("RGB")
    return image.convert("RGB")


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise BadPhoto(path, "does not exist") from None
    except OSError as fault:
        raise BadPhoto(path, f"cannot be opened: {_phrase(fault)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadPhoto(path, "is not a file")
    if status.st_size == 0:
        raise BadPhoto(path, "is empty (0 bytes)")


def _turn(image: Image.Image, size: tuple[int, int] | None) -> Image.Transpose | None:
    """The turn that brings the decoded photo to the layout its boxes were drawn on."""
    if size is not None and image.size == tuple(size):
        return None
    turn = _ORIENTATIONS.get(_orientation(image))
    if size is None or turn is None:
        return turn
    turned = image.size[::-1] if turn in _SWAPS_SIDES else image.size
    return turn if turned == tuple(size) else None


_SWAPS_SIDES = {_ORIENTATIONS[value] for value in (5, 6, 7, 8)}


def _orientation(image: Image.Image) -> int:
    read: Callable[[], Any] = image.getexif
    try:
        return int(read().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF in a sound photo says nothing about its pixels
        return 1


def _phrase(fault: BaseException) -> str:
    words = " ".join(str(getattr(fault, "strerror", None) or fault).split())
    return words or type(fault).__name__


def load_row(index: Index, image: int, *, strict: bool = False, reduction: int = 1) -> Image.Image:
    """The photo of image row `image`, oriented as its boxes are, mode RGB; `reduction` as in `load_photo`.

    Raises BadPhoto; UserError instead with `strict`, and always when the folder itself is gone: a
    disk that dropped out must stop the run, not empty the rest of the column.
    """
    path = index.photo_path(image)
    try:
        return load_photo(path, (int(index.widths[image]), int(index.heights[image])), reduction=reduction)
    except BadPhoto as bad:
        check_folder(index)
        if strict:
            raise UserError(
                f"photo {bad}; mend it or take it out of the annotations, or leave --strict away to go on "
                "without it."
            ) from bad
        raise


def load_or_reason(
    index: Index, image: int, *, strict: bool = False, reduction: int = 1
) -> Image.Image | str:
    """`load_row`, or for a bad photo the line to note: its file name and what is wrong with it."""
    try:
        return load_row(index, image, strict=strict, reduction=reduction)
    except BadPhoto as bad:
        return f"{index.file_name(image)} {bad.reason}"


def check_folder(index: Index) -> None:
    """UserError where the folder of the photos is not there."""
    if not index.image_root.is_dir():
        raise UserError(
            f"{index.image_root}, the folder of the photos of {index.folder}, is not there; bring it back "
            "and run the same command again, or index the annotations anew with --images where the photos "
            "are now."
        )
