"""Read a user's split file, JSON or text, and apply it to the concepts of annotations."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text
from cckt.cache_builder.base.untrusted.text import natural, parse_json
from cckt.cache_builder.index.formats import Annotations
from cckt.cache_builder.vocabulary import SPLITS, Concept, nearest_name, normalise_name


@dataclass(frozen=True)
class SplitEntry:
    """One concept named in a split file: by id, by name, or by both, which must then match."""

    category_id: int | None
    name: str | None

    def __str__(self) -> str:
        if self.name is None:
            return f"category id {self.category_id}"
        return f"category {self.name!r}" + (
            f" with id {self.category_id}" if self.category_id is not None else ""
        )


SplitLists = dict[str, list[SplitEntry]]
"""Split -> its entries."""


def read_split_file(path: Path) -> SplitLists:
    """Read the lists of base, novel and other concepts.

    JSON: an object with the lists "base", "novel" and optionally "other". Entries are names, integer category
    ids, or objects with "id" and "name". Other keys may hold text (a source, a comment).
    Text: each heading `base:`, `novel:`, `other:` is a line, followed by one name or id per line. Blank lines
    and lines that start with `#` are ignored.

    Raises UserError with the line or key at fault.
    """
    try:
        text = read_regular_text(path, "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: expected a split file, JSON or text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    lists = _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _from_text(text, path)
    if not any(lists.get(split) for split in ("base", "novel")):
        raise UserError(f"{path} names no base and no novel concept: fill its 'base' or 'novel' list")
    return lists


def split_by_lists(annotations: Annotations, lists: SplitLists, path: Path) -> list[Concept]:
    """Return the concepts of annotations with the split of the list that names them.

    Names are compared without regard to case, with `_` as a space; a name selects all concepts that have it.
    Concepts in no list are "other", or base where the file has no "base" list. Raises UserError for an entry
    that the annotations do not have, and for a concept in two lists.
    """
    concepts = annotations.concepts
    by_id = {concept.category_id: row for row, concept in enumerate(concepts)}
    by_name: dict[str, list[int]] = {}
    for row, concept in enumerate(concepts):
        by_name.setdefault(normalise_name(concept.name), []).append(row)
    given: dict[int, str] = {}
    for split, entries in lists.items():
        for entry in entries:
            rows = _rows_of(entry, by_id, by_name)
            if not rows:
                names = [concept.name for concept in concepts]
                near = nearest_name(entry.name, names) if entry.name else ""
                tail = near or ": remove it from the split or use another file"
                raise UserError(f"{path} names {entry}, which {annotations.path} does not have{tail}")
            for row in rows:
                if given.setdefault(row, split) != split:
                    name = concepts[row].name
                    raise UserError(f"{path} puts {name!r} into both {given[row]!r} and {split!r}: keep one")
    rest = "other" if "base" in lists else "base"
    return [replace(concept, split=given.get(row, rest)) for row, concept in enumerate(concepts)]


def _rows_of(entry: SplitEntry, by_id: dict[int, int], by_name: dict[str, list[int]]) -> list[int]:
    category_id = entry.category_id
    named = None if entry.name is None else by_name.get(normalise_name(entry.name), [])
    if category_id is None and not named and entry.name is not None:
        category_id = natural(entry.name)  # no concept has these digits as its name: they are an id
        named = named if category_id is None else None
    if category_id is None:
        return named or []
    row = by_id.get(category_id)
    return [row] if row is not None and (named is None or row in named) else []


def _from_json(text: str, path: Path) -> SplitLists:
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; repair it"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); repair it") from None
    expected = 'expected {"base": [names or ids], "novel": [names or ids]}'
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a list, not a split: {expected}")
    lists: SplitLists = {}
    for key, value in content.items():
        if key not in SPLITS:
            if isinstance(value, str):
                continue
            near = nearest_name(key, SPLITS)
            raise UserError(f"{path} has the unknown key {key!r}{near or ': ' + expected}")
        if not isinstance(value, list):
            raise UserError(f"{path}: {key!r} is not a list; {expected}")
        lists[key] = [_json_entry(entry, key, path) for entry in value]
    return lists


def _json_entry(entry: Any, key: str, path: Path) -> SplitEntry:
    record = entry if isinstance(entry, dict) else {"id" if isinstance(entry, int) else "name": entry}
    category_id, name = record.get("id"), record.get("name")
    good_id = category_id is None or (isinstance(category_id, int) and not isinstance(category_id, bool))
    good_name = name is None or isinstance(name, str)
    if not (good_id and good_name) or (category_id is None and name is None):
        raise UserError(f"{path}: {entry!r} in {key!r} is neither a name nor an integer category id")
    return SplitEntry(category_id, name)


def _from_text(text: str, path: Path) -> SplitLists:
    lists: SplitLists = {}
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
                f"{path}, line {number}: {entry!r} is under no heading; "
                "write 'base:' or 'novel:' on a line above it"
            )
        else:
            lists[section].append(SplitEntry(None, entry))
    return lists
