"""Read a folder of images without annotations, and the sizes of images for formats that record none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.base.untrusted.image_files import SUFFIXES
from cckt.cache_builder.base.untrusted.regular_files import walk_files
from cckt.cache_builder.index.formats import IMAGE_DTYPE, Annotations
from cckt.cache_builder.index.formats.repairs import Repairs
from cckt.cache_builder.index.photo_files.headers import read_headers, why_unreadable
from cckt.cache_builder.vocabulary import Concept


def read_folder(path: Path, progress: Progress, repairs: Repairs, names: Sequence[str] = ()) -> Annotations:
    """Return the images of a folder and its sub-folders, without boxes.

    names: of the concepts, numbered from 1. A note counts the images of sub-folders.

    Images are numbered by ascending name. Sizes are those of the photo as its EXIF orientation turns it.
    Raises UserError where there are none, or where one cannot be read.
    """
    files = list_images(path)
    if not files:
        raise UserError(f"{path} holds no images, expected files such as a.jpg or b.png; give their folder")
    images = measure(path, files, progress, path)
    digest = digest_of("\0".join(files).encode("utf-8", "surrogateescape"))
    below = sum("/" in file for file in files)
    notes = [f"{counted(below, 'image is', 'images are')} in sub-folders of {path}"] if below else []
    concepts = [Concept(number, name, split="other") for number, name in enumerate(names, 1)]
    return Annotations(
        path,
        digest,
        images,
        files,
        concepts=concepts,
        image_counts=[None] * len(concepts),
        repairs=repairs,
        notes=notes,
        turned=True,
    )


def list_images(root: Path, inside: str = "") -> list[str]:
    """Return the ascending names of the image files in `root / inside`, relative to `root`.

    Hidden files and folders, whose names begin with a dot, are left out.
    """
    names = []
    for folder, files in walk_files(root / inside, lambda path: not path.name.startswith(".")):
        place = folder.relative_to(root)
        names += [(place / file).as_posix() for file in files if is_image(file)]
    return sorted(names)


def is_image(name: str) -> bool:
    """Return whether a file has the ending of an image file and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def measure(root: Path, names: Sequence[str], progress: Progress, path: Path) -> NDArray[np.void]:
    """Return I images, numbered from 1, with the sizes of their files as their EXIF orientation turns them.

    path: what messages begin with. Raises UserError where a file cannot be read.
    """
    turned = read_headers(root, names, progress).turned
    unreadable = np.flatnonzero(turned[:, 0] == 0)
    if len(unreadable):
        first = root / names[int(unreadable[0])]
        raise UserError(
            f"{path}: {len(unreadable)} of {len(names)} photos cannot be read, so their size is unknown (the "
            f"first is {first}: {why_unreadable(first)}); repair them, or move them elsewhere"
        )
    images = np.zeros(len(names), IMAGE_DTYPE)
    images["id"] = np.arange(1, len(names) + 1)
    images["width"], images["height"] = turned[:, 0], turned[:, 1]
    return images
