"""Read the size and the EXIF orientation of image files, without their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.disk_faults import NO_FILES
from cckt.cache_builder.base.progress import Progress

THREADS = 8
"""Headers are read in parallel: each one waits for the disk."""

SWAPS_SIDES = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@dataclass(frozen=True)
class PhotoHeaders:
    """Headers of I image files. A file that is missing or cannot be read has size 0 x 0 and orientation 1."""

    stored: NDArray[np.int32]
    """(I, 2) width and height of the stored pixels."""
    orientations: NDArray[np.int8]
    """(I,) EXIF orientation, 1 to 8; 1: not turned."""

    @property
    def turned(self) -> NDArray[np.int32]:
        """(I, 2) width and height after the EXIF orientation is applied, as a viewer shows the photo."""
        swaps = np.isin(self.orientations, SWAPS_SIDES)
        return np.where(swaps[:, None], self.stored[:, ::-1], self.stored)


def read_headers(root: Path, names: Sequence[str], progress: Progress) -> PhotoHeaders:
    """Return the headers of the files `root / name` of I names."""
    progress.start("read photo headers", len(names), "photos")
    found = np.zeros((len(names), 3), np.int32)
    found[:, 2] = 1
    with ThreadPoolExecutor(THREADS) as pool:
        headers = pool.map(read_header, [root / name for name in names], chunksize=64)
        for row, header in enumerate(headers):
            if header is not None:
                found[row] = header
            progress.advance()
    progress.finish()
    return PhotoHeaders(found[:, :2], found[:, 2].astype(np.int8))


def read_header(path: Path) -> tuple[int, int, int] | None:
    """Return width, height and EXIF orientation of an image file; None where it cannot be read.

    OSError where the fault is not the file's: too many files are open.
    """
    from cckt.cache_builder.base.untrusted.image_files import open_image, orientation, stored_size

    try:
        if not path.is_file():  # a pipe would block
            return None
        with open_image(path) as image:
            # A PNG may hold its EXIF after the pixels; only an EXIF before them is read without decoding.
            turned = 1 if image.format == "PNG" and "exif" not in image.info else orientation(image)
            return *stored_size(image), turned if 1 <= turned <= 8 else 1
    except Exception as fault:  # decoders raise many kinds; columns report the photo and the reason
        if isinstance(fault, OSError) and fault.errno in NO_FILES:
            raise
        return None


def why_unreadable(path: Path) -> str:
    """Return why `read_header` returns None for a file, in words."""
    try:
        if not path.is_file():
            return "it is not a file"
        path.open("rb").close()
    except (OSError, ValueError) as fault:
        return str(getattr(fault, "strerror", None) or fault)
    return "it is not an image in a supported format"
