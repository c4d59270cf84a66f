"""Counts in sentences: 1 photo, 2 photos."""

from __future__ import annotations


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with what it counts.

    one: the words for 1, such as "photo has". several: those for other numbers; default `one` with an s.
    """
    return f"{number} {one if number == 1 else several or one + 's'}"
