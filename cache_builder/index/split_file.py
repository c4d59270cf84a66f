"""A split of the user's own, as JSON or as text."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index.formats.coco import Source
from cckt.cache_builder.vocabulary import SPLITS, Concept, nearest_name, normalise_name


@dataclass(frozen=True)
class Entry:
    """One concept that a split file names: by id, by name, or by both (which must then fit each other)."""

    category_id: int | None
    name: str | None

    def __str__(self) -> str:
        if self.name is None:
            return f"category id {self.category_id}"
        return f"category {self.name!r}" + (
            f" with id {self.category_id}" if self.category_id is not None else ""
        )


Lists = dict[str, list[Entry]]


def read_lists(path: Path) -> Lists:
    """Read which concepts are base, novel and other.

    JSON: an object with the lists "base", "novel" and, if wanted, "other", whose entries are names, integer
    category ids, or objects with "id" and "name"; other keys may hold plain text (a source, a comment).
    Text: the headings `base:`, `novel:`, `other:` on lines of their own and under them one name or id a line;
    blank lines and lines that start with `#` do not count.

    Raises UserError with the line or key at fault.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: expected a split file, JSON or text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    lists = _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _from_text(text, path)
    if not any(lists.get(split) for split in ("base", "novel")):
        raise UserError(f"{path} names no base and no novel concept: fill its 'base' or 'novel' list")
    return lists


def split_by_lists(source: Source, lists: Lists, path: Path) -> list[Concept]:
    """Give a source's concepts the split of the list that names them.

    Names match whatever their case, with `_` as space; a name stands for all concepts that carry it. What no
    list names is "other"; where the file has no "base" list, it is base.
    Raises UserError for an entry the source does not have, and for one that stands in two lists.
    """
    by_id = {concept.category_id: row for row, concept in enumerate(source.concepts)}
    by_name: dict[str, list[int]] = {}
    for row, concept in enumerate(source.concepts):
        by_name.setdefault(normalise_name(concept.name), []).append(row)
    given: dict[int, str] = {}
    for split, entries in lists.items():
        for entry in entries:
            rows = _rows_of(entry, by_id, by_name)
            if not rows:
                names = [concept.name for concept in source.concepts]
                near = nearest_name(entry.name, names) if entry.name else ""
                tail = near or ": remove it from the split or use another file"
                raise UserError(f"{path} names {entry}, which {source.path} does not have{tail}")
            for row in rows:
                if given.setdefault(row, split) != split:
                    name = source.concepts[row].name
                    raise UserError(f"{path} puts {name!r} into both {given[row]!r} and {split!r}: keep one")
    rest = "other" if "base" in lists else "base"
    return [replace(concept, split=given.get(row, rest)) for row, concept in enumerate(source.concepts)]


def _rows_of(entry: Entry, by_id: dict[int, int], by_name: dict[str, list[int]]) -> list[int]:
    category_id = entry.category_id
    named = None if entry.name is None else by_name.get(normalise_name(entry.name), [])
    if category_id is None and not named and entry.name is not None and entry.name.isdecimal():
        category_id, named = int(entry.name), None  # digits that nothing is called are an id
    if category_id is None:
        return named or []
    row = by_id.get(category_id)
    return [row] if row is not None and (named is None or row in named) else []


def _from_json(text: str, path: Path) -> Lists:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; repair it"
        ) from None
    expected = 'expected {"base": [names or ids], "novel": [names or ids]}'
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a list, not a split: {expected}")
    lists: Lists = {}
    for key, value in content.items():
        if key not in SPLITS:
            if isinstance(value, str):
                continue
            near = nearest_name(key, SPLITS)
            raise UserError(f"{path} has the unknown key {key!r}{near or ': ' + expected}")
        if not isinstance(value, list):
            raise UserError(f"{path}: {key!r} is no list; {expected}")
        lists[key] = [_json_entry(entry, key, path) for entry in value]
    return lists


def _json_entry(entry: Any, key: str, path: Path) -> Entry:
    record = entry if isinstance(entry, dict) else {"id" if isinstance(entry, int) else "name": entry}
    category_id, name = record.get("id"), record.get("name")
    good_id = category_id is None or (isinstance(category_id, int) and not isinstance(category_id, bool))
    good_name = name is None or isinstance(name, str)
    if not (good_id and good_name) or (category_id is None and name is None):
        raise UserError(f"{path}: {entry!r} in {key!r} is neither a name nor an integer category id")
    return Entry(category_id, name)


def _from_text(text: str, path: Path) -> Lists:
    lists: Lists = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry.endswith(":") and entry[:-1].strip().lower() in SPLITS:
            section = entry[:-1].strip().lower()
            lists.setdefault(section, [])
        elif not section:
            raise UserError(
                f"{path}, line {number}: {entry!r} stands under no heading; "
                "write 'base:' or 'novel:' on a line above it"
            )
        else:
            lists[section].append(Entry(None, entry))
    return lists
