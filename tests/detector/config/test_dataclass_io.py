"""Dataclasses as texts, overrides and TOML."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.dataclass_io import convert, override, toml_text


@dataclass(frozen=True)
class Odd:
    maybe: int | None = 3
    words: tuple[str, ...] = ()
    name: str = ""


def test_none_is_written_as_text() -> None:
    assert override(Odd(), ["maybe=none"]) == Odd(maybe=None)
    assert override(Odd(), ["maybe=4"]) == Odd(maybe=4)
    assert override(Odd(), ["words=a, b"]) == Odd(words=("a", "b"))
    with pytest.raises(UserError, match="option maybe: found 'x', expected a whole number or 'none'"):
        override(Odd(), ["maybe=x"])


@settings(deadline=None, max_examples=60)
@given(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    st.integers(-(2**60), 2**60),
    st.booleans(),
)
def test_toml_survives_a_round_trip(text: str, numbers: list[float], whole: int, flag: bool) -> None:
    values = {
        "top": whole,
        "section": {"text": text, "numbers": numbers, "flag": flag, "inner": {"whole": whole}},
        "terms": {"one": {"flag": flag}},
    }
    assert tomllib.loads(toml_text(values)) == values


def test_integers_are_accepted_as_floats_and_keep_all_digits() -> None:
    assert convert("1e3", int, "x") == 1000
    assert convert(2**60 + 1, int, "x") == 2**60 + 1
    assert convert(str(2**60 + 1), int, "x") == 2**60 + 1
