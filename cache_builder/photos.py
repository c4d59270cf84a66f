"""Decode photos to RGB pixels, and report the ones that cannot be read.

A data set of a hundred thousand photos holds a few that are missing, truncated or no photos at all. They must
not stop a run of hours, and no other photo may take their place. Each one is a `BadPhoto` with a reason;
columns store its rows as invalid and note the reason. Where no photo can be read, the fault is not in the
photos (a disk that is not mounted, missing permissions), and `check_photos` stops the run.

Photos may come from anywhere: only files in one of FORMATS are decoded, none larger than MAX_PIXELS, and
pipes and devices are never opened. Only `base.untrusted.image_files.open_image` opens image files.

Rules that decide the pixels:

* Orientation. Boxes of COCO-format files refer to the pixels as stored: the COCO API and loaders built on it
  ignore the EXIF orientation. So does `load_photo`, if the stored size is the annotated one. If only the
  rotated size is the annotated one, the boxes refer to the rotated photo, and the photo is rotated. If
  neither is, the boxes belong to another file, and the photo is bad. Where both sizes are the annotated one
  (a square photo, or one that is mirrored or upside down), an index that records `exif` "apply" decides
  (`Index.exif`): then the photo is rotated.
* Transparent pixels are blended over white. Their own colour is arbitrary, often black.
* 16 bits are scaled to 8 (v / 257, rounded). Pillow's own conversion of such greys clips them.
* Animations give their first frame. Colour profiles are ignored, as in open_clip.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.untrusted.image_files import (
    MAX_PIXELS,
    TooLarge,
    open_image,
    orientation,
    stored_size,
)
from cckt.cache_builder.index import Index

WARNED_SHARE = 0.1
"""Share of unreadable photos above which a report warns."""

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INVERSE = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the others are their own
_SWAPS_SIDES = {_ORIENTATIONS[value] for value in (5, 6, 7, 8)}

_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # faults of the machine, not of the photo
# Errors of reading an open file; other errors come from decoders.
_READ_ERRORS = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EACCES, errno.EPERM)


class BadPhoto(Exception):
    """A photo that cannot be used, and why. Its rows stay invalid; the run continues.

    reason: a phrase that fits after "PATH: ". errno: set where the system refused to open or read the file.
    """

    def __init__(self, path: Path, reason: str, errno: int | None = None) -> None:
        super().__init__(path, reason, errno)  # all as arguments, so that pickle can rebuild the exception
        self.path = path
        self.reason = reason
        self.errno = errno

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def load_photo(
    path: Path,
    size: tuple[int, int] | None = None,
    *,
    exif: str = "ignore",
    max_pixels: int = MAX_PIXELS,
    reduction: int = 1,
) -> Image.Image:
    """Decode `path` to a Pillow image of mode RGB, 8 bits per channel.

    size: annotated (width, height) in pixels, which decides the orientation (see above). Without it the EXIF
    orientation applies, as in any viewer.
    exif: "ignore" or "apply", the reading of a photo whose size does not decide: `Index.exif`.
    reduction: 1, 2, 4 or 8. A JPEG is decoded at 1/reduction of its size, sides rounded up, which is faster.
    Other formats are decoded at full size.

    Raises BadPhoto, and nothing else, for any fault of the file or its size.
    """
    check_file(path)
    try:
        with open_image(path, max_pixels=max_pixels) as image:
            if image.format not in ("JPEG", "TIFF"):
                image.load()  # other formats may store their orientation after the pixels
            turn, stored = _turn(image, size, exif), stored_size(image)
            if reduction > 1:
                image.draft(None, (max(1, image.width // reduction), max(1, image.height // reduction)))
            rgb = _as_stored(image)
    except UnidentifiedImageError:
        raise BadPhoto(path, "is not an image in a supported format") from None
    except TooLarge as fault:
        raise BadPhoto(path, str(fault)) from None
    except Image.DecompressionBombError:
        raise BadPhoto(path, f"has over {max_pixels / 1e6:.0f} megapixels, the limit") from None
    except MemoryError:
        raise BadPhoto(path, "cannot be decoded: no memory is left", errno.ENOMEM) from None
    except Exception as fault:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, KeyError ...
        raise _bad(path, fault) from None
    if turn is not None:
        rgb = rgb.transpose(turn)
    shown = stored[::-1] if turn in _SWAPS_SIDES else stored
    if size is not None and shown != tuple(size):
        raise BadPhoto(path, f"is {shown[0]} x {shown[1]} where the annotations say {size[0]} x {size[1]}")
    return rgb


def _as_stored(image: Image.Image) -> Image.Image:
    """Return the stored pixels as RGB: Pillow turns a TIFF by its orientation while it loads it."""
    told = orientation(image) if image.format == "TIFF" else 1
    rgb = to_rgb(image)
    if told in _ORIENTATIONS and orientation(image) != told:
        rgb = rgb.transpose(_INVERSE.get(told, _ORIENTATIONS[told]))
    return rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded Pillow image of any mode to RGB by the rules at the top of this file.

    Raises ValueError for 32-bit and floating-point greys, whose range of values is not defined.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()  # the copy does not need the open file
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} (32-bit grey) have no agreed range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layered).convert("RGB")
    return image.convert("RGB")


def check_file(path: Path) -> None:
    """Raise BadPhoto unless `path` is a regular file with contents. Does not open it: a pipe would block."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise BadPhoto(path, "does not exist", errno.ENOENT) from None
    except (OSError, ValueError) as fault:  # ValueError: a NUL in the name
        raise BadPhoto(path, f"cannot be opened: {_phrase(fault)}", getattr(fault, "errno", None)) from None
    if not stat.S_ISREG(status.st_mode):
        raise BadPhoto(path, "is not a file")
    if status.st_size == 0:
        raise BadPhoto(path, "is empty (0 bytes)")


def _bad(path: Path, fault: Exception) -> BadPhoto:
    """Return the BadPhoto for an exception of opening or decoding `path`."""
    number = fault.errno if isinstance(fault, OSError) else None
    if number is not None and getattr(fault, "filename", None) is not None:
        return BadPhoto(path, f"cannot be opened: {_phrase(fault)}", number)
    if number in _READ_ERRORS or number in _NO_RESOURCES:
        return BadPhoto(path, f"cannot be read: {_phrase(fault)}", number)
    return BadPhoto(path, f"cannot be decoded: {_phrase(fault)}")


def _turn(image: Image.Image, size: tuple[int, int] | None, exif: str) -> Image.Transpose | None:
    """Return the transposition that gives the stored pixels the layout of their boxes; None for none."""
    stored = stored_size(image)
    if size is not None and stored == tuple(size) and exif != "apply":
        return None
    turn = _ORIENTATIONS.get(orientation(image))
    if size is None or turn is None:
        return turn
    turned = stored[::-1] if turn in _SWAPS_SIDES else stored
    return turn if turned == tuple(size) else None


def _phrase(fault: BaseException) -> str:
    words = " ".join(str(getattr(fault, "strerror", None) or fault).split())
    return words or type(fault).__name__


def load_row(index: Index, image: int, *, strict: bool = False, reduction: int = 1) -> Image.Image:
    """Return the photo of an image row in mode RGB, oriented as its boxes are. reduction: see `load_photo`.

    Raises BadPhoto for a bad photo, or UserError with `strict`. Always raises UserError where the fault is
    not the photo's: the images folder is gone, or too many files are open. Such a fault must stop a run; else
    all further rows would become invalid.
    """
    path = index.photo_path(image)
    size = (int(index.widths[image]), int(index.heights[image]))
    try:
        return load_photo(path, size, exif=index.exif, reduction=reduction)
    except BadPhoto as bad:
        check_folder(index)
        if bad.errno in _NO_RESOURCES:
            raise UserError(
                f"photo {bad}; this process has reached a limit of the machine: use fewer --workers or raise "
                "the limit (ulimit -n for open files), and run the same command again."
            ) from bad
        if strict:
            raise UserError(
                f"photo {bad}; repair it or remove it from the annotations, or leave out --strict to "
                "continue without it."
            ) from bad
        raise


def load_or_reason(
    index: Index, image: int, *, strict: bool = False, reduction: int = 1
) -> Image.Image | str:
    """Return `load_row`, or for a bad photo the note to store: its file name and the reason."""
    try:
        return load_row(index, image, strict=strict, reduction=reduction)
    except BadPhoto as bad:
        return f"{index.file_name(image)} {bad.reason}"


def check_folder(index: Index) -> None:
    """Raise UserError where the images folder is missing or empty, as without its disk."""
    try:
        with os.scandir(index.image_root) as entries:
            if next(entries, None) is not None:
                return
        found = "is empty"
    except OSError as fault:
        if fault.errno in _NO_RESOURCES or isinstance(fault, PermissionError):
            return  # its photos may be readable all the same
        known = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a folder"}
        found = known.get(fault.errno or 0, f"cannot be read ({fault.strerror})")
    raise UserError(
        f"{index.image_root}, the folder of the photos of {index.folder}, {found}; restore it (is its disk "
        "mounted?) and run the same command again, or run cckt data index with --images where they are now."
    )


def check_photos(index: Index, rows: NDArray[np.integer] | None = None) -> None:
    """Raise UserError unless at least one photo can be read.

    rows: image rows that a column needs; default all. Stops at the first photo that can be read, so on a
    sound data set it costs one photo. Without a readable photo a column would hold only invalid rows.
    """
    check_folder(index)
    wanted = range(len(index)) if rows is None else rows.tolist()
    first: BadPhoto | None = None
    absent = True
    for image in wanted:
        try:
            load_row(index, image)
            return
        except BadPhoto as bad:
            first = first or bad
            absent &= bad.errno == errno.ENOENT
    if first is not None:
        step = (
            "run cckt data index again with --images and their folder (is its disk mounted?)."
            if absent
            else "check that the disk is mounted and that you may read the files, then run the same command "
            "again."
        )
        raise UserError(
            f"none of the {counted(len(wanted), 'photo')} of {index.folder} can be read (the first: "
            f"{first}), expected at least one; {step}"
        )


def unreadable_warning(unreadable: int, photos: int) -> str | None:
    """Return a warning with the share of unreadable photos, None up to WARNED_SHARE."""
    if unreadable <= WARNED_SHARE * photos:
        return None
    return (
        f"warning: {unreadable} of {photos} photos ({unreadable / photos:.0%}) cannot be read, so their rows "
        "have no value"
    )
