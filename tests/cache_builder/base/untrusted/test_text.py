"""JSON of strangers raises ValueError and nothing else."""

from __future__ import annotations

import pytest

from cckt.cache_builder.base.untrusted.text import parse_json


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 6000, b"\xff", b"", b"{", "\ud800"]
)
def test_what_is_no_json_is_a_value_error(text: bytes | str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_is_parsed() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
