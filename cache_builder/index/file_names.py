"""File names of images: check that they stay inside the images folder, and find them on disk."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from cckt.cache_builder.base.disk_faults import UNANSWERED
from cckt.cache_builder.base.errors import UserError, counted, listed
from cckt.cache_builder.base.untrusted.regular_files import walk_files

_COCO_2014 = re.compile(r"COCO_(?:train|val|test)2014_(\d{12}\.jpg)")
# These data sets number their images across all folders, so the last part of the name identifies the image.
_NUMBERED = re.compile(r"(?:COCO_(?:train|val|test)2014_)?\d{12}\.jpg|objects365_v[12]_\d{8}\.jpg")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_inside(name: str, subject: str, hint: str = "") -> None:
    """Raise UserError unless `name`, joined to any folder, names a file inside it. Does not access the disk.

    subject: what the message begins with, such as "a.json: the file name '../b.jpg' of image 3". hint: what
    the message ends with, where the name leaves the folder.
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or _DRIVE.match(name) or "\0" in name:
        raise UserError(
            f"{subject} leaves the images folder; "
            f"expected a relative name without '..', such as 'train2017/000000000009.jpg'{hint}"
        )
    if parts[-1] in ("", "."):
        raise UserError(f"{subject} names no file; expected a name such as 'train2017/000000000009.jpg'")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{subject} is not valid text; expected a name that UTF-8 can encode") from None


def plain_name(name: str) -> str:
    """Return a name inside a folder in one spelling: "a.jpg" for "./a.jpg", "sub/a.jpg" for "sub//a.jpg"."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


class ImageFolder:
    """The files under the images folder. Each sub-folder is listed once, however many images it holds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, frozenset[str]] = {}
        self._files: list[dict[str, list[str]]] = []

    def __contains__(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        listing = self._listings.get(folder)
        if listing is None:
            try:
                with os.scandir(self.root / folder) as entries:
                    listing = frozenset(entry.name for entry in entries)
            except OSError as error:
                if error.errno in UNANSWERED:  # its images may exist all the same
                    raise
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

    def has(self, name: str) -> bool:
        """Return whether `resolve` finds a file under the name, and the name stays inside the folder."""
        try:
            check_inside(name, "")
        except UserError:
            return False
        return self.resolve(name)[1]

    def find_one(self, name: str, subject: str) -> str | None:
        """Return the one file with the base name of `name`, in any sub-folder; None if there is none.

        Tries the name as it is, without percent encoding, and without the query of a URL; then with Unicode
        composed, then ignoring case. The first way that finds a file counts. Raises UserError where it finds
        several. subject: what the message begins with.
        """
        bases = _base_names(name)
        for form, files in zip(_FORMS, self._all_files(), strict=True):
            for base in bases:
                found = files.get(form(base), [])
                if len(found) > 1:
                    raise UserError(
                        f"{subject} fits {counted(len(found), 'file')} inside {self.root} "
                        f"({listed(found, 2)}), "
                        "expected one; correct the file name"
                    )
                if found:
                    return found[0]
        return None

    def _all_files(self) -> list[dict[str, list[str]]]:
        """Return, for each of _FORMS, form of a base name -> its files. Lists the folder once."""
        if not self._files:
            self._files = [{} for _ in _FORMS]
            for folder, files in walk_files(self.root):
                inside = folder.relative_to(self.root)
                for file in files:
                    for form, table in zip(_FORMS, self._files, strict=True):
                        table.setdefault(form(file), []).append((inside / file).as_posix())
        return self._files


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


_FORMS: tuple[Callable[[str], str], ...] = (str, _composed, lambda name: _composed(name).casefold())
"""Forms in which base names are compared, from the strictest to the loosest."""


def _base_names(name: str) -> list[str]:
    """Return the last part of a path or URL, as it is and decoded."""
    forms = [name, unquote(name)]
    forms += [form.partition("?")[0] for form in forms] + [unquote(forms[1])]
    bases = [form.replace("\\", "/").rpartition("/")[2] for form in forms]
    return [base for base in dict.fromkeys(bases) if base not in ("", ".", "..")]


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
