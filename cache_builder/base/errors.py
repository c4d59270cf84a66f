"""The one exception for faults that the user can correct, and values, counts and commands in messages."""

from __future__ import annotations

import reprlib
import shlex
from collections.abc import Sequence
from itertools import islice
from typing import Any


class UserError(Exception):
    """A fault that the user can correct.

    It is no ValueError: a handler for wrong values must not hide its sentence. The message is one
    sentence: the file or option, what was found, what was expected, the next step. The command line prints it
    to stderr without a traceback and exits with `exit_code`. Faults of the library stay assertions and
    ordinary exceptions.
    """

    exit_code = 2


class _InOrder(reprlib.Repr):
    """The repr of a value with the keys of dictionaries in their order, which reprlib sorts."""

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        """Return the repr of a dictionary, of its first `maxdict` entries."""
        if level <= 0:
            return "{...}"
        parts = [
            f"{self.repr1(key, level - 1)}: {self.repr1(one, level - 1)}"
            for key, one in islice(value.items(), self.maxdict)
        ]
        return "{" + ", ".join([*parts, *["..."] * (len(value) > self.maxdict)]) + "}"


def brief(value: object) -> str:
    """Return the repr of a value for a message, cut to 80 characters.

    A value that others wrote may refer to its own parts many times: only its first items are shown.
    """
    short = _InOrder()
    short.maxlevel, short.maxstring, short.maxother = 3, 200, 200
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 20
    text = short.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def quoted(value: object) -> str:
    """Return a path or name as one word of a command line, for commands in messages."""
    return shlex.quote(str(value))


def listed(items: Sequence[object], most: int = 5) -> str:
    """Return the first `most` items and the number of the others, as in "cat, dog and 80 more"."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with what it counts, as in "1 photo" and "2 photos".

    one: the words for 1, such as "photo has". several: those for other numbers; default `one` with an s.
    """
    return f"{number} {one if number == 1 else several or one + 's'}"
