"""Own only what cckt wrote: a file or folder without our mark is neither replaced nor removed.

A mark is a function that returns whether cckt wrote an existing path. Marks by kind of file: keys of a JSON
object (`json_mark`), text near the beginning of a file (`text_mark`), a card that vouches for the files next
to it (`require_own_folder`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import is_stream
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import read_regular, require_regular
from cckt.cache_builder.base.untrusted.text import parse_json

Mark = Callable[[Path], bool]
"""Return whether cckt wrote an existing path. Never raises OSError."""

MARK_BYTES = 4096
"""Bytes at the beginning of a file in which `text_mark` searches."""


def require_ours_or_absent(path: Path, mark: Mark, expected: str, *, option: str = "--out") -> None:
    """Raise UserError, which names `path`, unless a command may write there.

    Accepted are a missing path, an empty file, a device or a pipe (written to, never replaced), and what
    carries our mark. A symbolic link is judged by its target. expected: describes what cckt writes there.
    """
    if not path.exists() or is_stream(path) or _is_empty(path) or mark(path):
        return
    kind = "a folder" if path.is_dir() else "a file"
    raise UserError(
        f"{option}: found {kind} {path} that is not {expected}; move or delete it, or give another {option}."
    )


def require_own_folder(
    folder: Path, card: str, mark: Mark, names: Iterable[str], expected: str, *, option: str = "--out"
) -> None:
    """Raise UserError unless the files `names` of a folder may be written.

    They may if `folder`/`card` carries our mark, because the card vouches for them, or if none of them exists
    (empty files and folders count as missing). Other files in the folder do not matter: they are kept.
    """
    vouched = (folder / card).is_file() and mark(folder / card)
    for name in (card, *names):
        require_ours_or_absent(folder / name, lambda path: vouched, expected, option=option)


def json_mark(*keys: str) -> Mark:
    """Return a mark of JSON files: the file holds an object with these keys."""
    return lambda path: set(keys) <= json_object(path).keys()


def text_mark(*texts: str) -> Mark:
    """Return a mark of text files: one of `texts` is within the first MARK_BYTES bytes."""

    def found(path: Path) -> bool:
        try:
            with require_regular(path).open("rb") as file:
                head = file.read(MARK_BYTES)
        except OSError:
            return False
        return any(text.encode() in head for text in texts)

    return found


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if the path is no readable file with an object."""
    try:
        if not path.is_file():  # opening a pipe would block
            return {}
        value = parse_json(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_empty(path: Path) -> bool:
    """Return whether a path is an empty file or folder; nothing is lost if it is replaced."""
    try:
        return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
    except OSError:
        return False
