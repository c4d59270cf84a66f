"""Natural numbers in texts that anybody may have written."""

from __future__ import annotations

_LARGEST = 2**63 - 1
"""Largest number that fits 64 bits. Python refuses to convert thousands of digits."""


def natural(text: str) -> int | None:
    """Return the number of ASCII digits; None for other texts, such as "²" or "-1", and from 2^63 on."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST))):
        return None
    return number if (number := int(text)) <= _LARGEST else None
