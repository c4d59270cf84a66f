"""File names of photos: proven to stay inside the images folder, and matched with what lies there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cckt.cache_builder.base.errors import UserError

_COCO_2014 = re.compile(r"COCO_(?:train|val|test)2014_(\d{12}\.jpg)")
# These data sets number their photos across all their folders, so the last part alone says which photo it is.
_NUMBERED = re.compile(r"(?:COCO_(?:train|val|test)2014_)?\d{12}\.jpg|objects365_v[12]_\d{8}\.jpg")
_DRIVE = re.compile(r"[A-Za-z]:")


def name_from_url(url: str) -> str:
    """`folder/name` of a photo's address: LVIS v1 gives only `coco_url`, ".../train2017/000000391895.jpg"."""
    return "/".join(part for part in unquote(urlsplit(url).path).split("/")[-2:] if part)


def check_inside(name: str, source: Path, image: str) -> None:
    """Raise UserError unless `name`, joined to any folder, stays inside it; no disk is asked."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or _DRIVE.match(name) or "\0" in name:
        raise UserError(
            f"{source}: the file name {name!r} of image {image} leaves the images folder; "
            "expected a relative name without '..', such as 'train2017/000000000009.jpg'"
        )
    if parts[-1] in ("", "."):
        raise UserError(f"{source}: the file name {name!r} of image {image} names no file")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{source}: the file name {name!r} of image {image} is not valid text") from None


class PhotoFolder:
    """What lies under the images folder, one listing a sub-folder however many photos it holds."""

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
        """The name under which the photo lies here, and whether it does.

        Tried in turn: the name itself; with `\\` as `/`; and for photos that COCO or Objects365 numbered,
        without its leading folders and, as LVIS v0.5 needs, without `COCO_train2014_`. A photo that is
        nowhere keeps its name: it is not an error here, the crops report it.
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
