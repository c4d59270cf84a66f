"""What --lenient repairs: the list of changes, and the helpers that make them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from cckt.cache_builder.base.constants import EXACT
from cckt.cache_builder.index.file_names import ImageFolder

KINDS = {
    "annotation_ids": (
        "annotation id was",
        "annotation ids were",
        " replaced: annotations are numbered by file order",
    ),
    "image_ids": ("image id was", "image ids were", " replaced: images are numbered by file order"),
    "category_ids": (
        "category id was",
        "category ids were",
        " replaced: categories are numbered by file order",
    ),
    "numbers": ("text was", "texts were", " read as a number"),
    "file_names": (
        "file name was",
        "file names were",
        " replaced by the one file of that base name inside --images",
    ),
    "boxes": ("box was", "boxes were", " taken from a segmentation"),
    "parents": (
        "category without boxes was",
        "categories without boxes were",
        " left out: only the parent of others",
    ),
}
"""Kinds of repairs, as the report states them: words for one, for several, and what follows."""

_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_FILE = re.compile(r"repairs-[0-9a-f]{16}\.json")


@dataclass
class Repairs:
    """The repairs of one build, if they are enabled.

    images: the folder in which file names are searched, None without --images.
    """

    enabled: bool = False
    images: ImageFolder | None = None
    made: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Kind -> what was found and what was taken instead."""

    def add(self, kind: str, subject: str, found: Any, taken: Any) -> None:
        """Note a repair. subject: the record, such as "image 3"."""
        assert kind in KINDS, f"expected one of {list(KINDS)}, found {kind!r}"
        self.made.setdefault(kind, []).append({"of": subject, "found": found, "taken": taken})

    @property
    def counts(self) -> dict[str, int]:
        """Number of repairs of each kind, in the order of KINDS."""
        return {kind: len(self.made[kind]) for kind in KINDS if kind in self.made}

    def hint(self, step: str) -> str:
        """Return the end of a message: what --lenient would do; "" if it is enabled."""
        return "" if self.enabled else f"; --lenient {step}"

    def file(self) -> tuple[str, str] | None:
        """Return the name and the text of the file that lists the repairs; None if none was made."""
        if not self.made:
            return None
        text = json.dumps({kind: self.made[kind] for kind in self.counts}, indent=1, ensure_ascii=True) + "\n"
        return f"repairs-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json", text


def is_repairs_file(name: object) -> bool:
    """Return whether `name` can be the file of `Repairs.file`: an index may come from anywhere."""
    return isinstance(name, str) and bool(_FILE.fullmatch(name))


def as_integer(value: object) -> int | None:
    """Return an id as an integer of 64 bits: an int, a whole float, or a text of digits; None for others.

    A float from EXACT on may be another id that was rounded.
    """
    if isinstance(value, str):
        value = int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", value) else None
    elif isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        return None
    return value


_FLAGS = {"": 0, "0": 0, "false": 0, "no": 0, "1": 1, "true": 1, "yes": 1}


def as_flag(value: object) -> int | None:
    """Return 0 or 1 for a mark such as "difficult": a number or a truth value, or its text; 0 for None.

    None for anything else.
    """
    if value is None or value in (0, 1):
        return int(bool(value))
    return _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


def as_number(value: object) -> object:
    """Return the number that a text spells, or the value as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else value
