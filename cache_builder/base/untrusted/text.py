"""Texts that anybody may have written: their JSON, their natural numbers, and what shows them safely."""

from __future__ import annotations

import json
import re
from typing import Any

_LARGEST = 2**63 - 1
"""Largest number that fits 64 bits. Python refuses to convert thousands of digits."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises ValueError, and nothing else, if there is none: also for invalid UTF-8, for arrays nested a
    thousand deep and for integers of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def natural(text: str) -> int | None:
    """Return the number of ASCII digits; None for other texts, such as "²" or "-1", and from 2^63 on."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST))):
        return None
    return number if (number := int(text)) <= _LARGEST else None


def escape(text: str, unsafe: re.Pattern[str]) -> str:
    r"""Return a text in which the `unsafe` characters are shown as \x1b, \u202e and so on."""
    return unsafe.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)
