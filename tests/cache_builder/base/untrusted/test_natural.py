"""Natural numbers in texts."""

from __future__ import annotations

import pytest

from cckt.cache_builder.base.untrusted.text import natural


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), (str(2**63 - 1), 2**63 - 1)])
def test_ascii_digits_are_a_number(text: str, number: int) -> None:
    assert natural(text) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", "²", "٣", "1.0", " 1", "1_0", str(2**63), "9" * 5000])
def test_anything_else_is_none(text: str) -> None:
    assert natural(text) is None
