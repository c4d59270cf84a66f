"""Natural numbers in texts that anybody may have written."""

from __future__ import annotations

_LONGEST = 18
"""Digits of a number that always fits 64 bits. Python refuses to convert thousands of digits."""


def natural(text: str) -> int | None:
    """Return the number of a text of 1 to 18 ASCII digits; None for any other text, such as "²" or "-1"."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST else None
