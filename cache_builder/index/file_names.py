"""File names of images: check that they stay inside the images folder, and find them on disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cckt.cache_builder.base.errors import UserError

_COCO_2014 = re.compile(r"COCO_(?:train|val|test)2014_(\d{12}\.jpg)")
# These data sets number their images across all folders, so the last part of the name identifies the image.
_NUMBERED = re.compile(r"(?:COCO_(?:train|val|test)2014_)?\d{12}\.jpg|objects365_v[12]_\d{8}\.jpg")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_inside(name: str, subject: str) -> None:
    """Raise UserError unless `name`, joined to any folder, names a file inside it. Does not access the disk.

    subject: what the message begins with, such as "a.json: the file name '../b.jpg' of image 3".
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or _DRIVE.match(name) or "\0" in name:
        raise UserError(
            f"{subject} leaves the images folder; "
            "expected a relative name without '..', such as 'train2017/000000000009.jpg'"
        )
    if parts[-1] in ("", "."):
        raise UserError(f"{subject} names no file; expected a name such as 'train2017/000000000009.jpg'")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{subject} is not valid text; expected a name that UTF-8 can encode") from None


class ImageFolder:
    """The files under the images folder. Each sub-folder is listed once, however many images it holds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        listing = self._listings.get(folder)
        if listing is None:
            try:
                with os.scandir(self.root / folder) as entries:
                    listing = frozenset(entry.name for entry in entries)
            except OSError:
                listing = frozenset()
            self._listings[folder] = listing
        return file in listing

    def resolve(self, name: str) -> tuple[str, bool]:
        """Return the name under which the image exists here, and whether it exists.

        Tries, in this order: the name itself; `\\` replaced by `/`; for images that COCO or Objects365
        numbered, the name without its leading folders, and without `COCO_train2014_` (LVIS v0.5). A missing
        image keeps its name; it is no error here, since columns report missing images.
        """
        if name in self:
            return name, True
        for other in _other_names(name):
            if other in self:
                return other, True
        return name, False


def _other_names(name: str) -> list[str]:
    slashed = name.replace("\\", "/")
    names = [slashed]
    if _NUMBERED.fullmatch(slashed.rpartition("/")[2]):
        parts = slashed.split("/")
        names += ["/".join(parts[start:]) for start in range(1, len(parts))]
        match = _COCO_2014.fullmatch(parts[-1])
        if match:
            names.append(match[1])
    return names
