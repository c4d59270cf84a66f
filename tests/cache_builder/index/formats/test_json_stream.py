"""The record-by-record JSON reader equals json.loads, whatever the size of its blocks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index.formats import json_stream as stream
from cckt.cache_builder.index.formats.json_stream import JsonLists

_FILE = [HealthCheck.function_scoped_fixture]
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
_lists = st.lists(_values, max_size=5)


def read(path: Path, keys: tuple[str, ...] = ("images", "annotations")) -> dict[str, list[Any]]:
    lists = JsonLists(path, keys, Silent())
    result: dict[str, list[Any]] = {}
    for key, record in lists.records():
        result.setdefault(key, []).append(record)
    assert lists.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    return result


def test_an_empty_object_yields_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(" { } \n")
    assert read(path) == {}


@settings(deadline=None, max_examples=60, suppress_health_check=_FILE)
@given(
    content=st.dictionaries(
        st.text(max_size=6).filter(lambda key: key not in ("images", "annotations")), _values, max_size=4
    ),
    images=_lists,
    annotations=_lists,
    block=st.integers(1, 40),
    indent=st.sampled_from([None, 1, 99]),
    ascii_only=st.booleans(),
)
def test_records_equal_json_loads(
    tmp_path: Path, content: dict[str, Any], images: list[Any], annotations: list[Any],
    block: int, indent: int | None, ascii_only: bool,
) -> None:  # fmt: skip
    whole = {**content, "images": images, "annotations": annotations, "last": 12}
    try:
        data = json.dumps(whole, indent=indent, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate has no UTF-8
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_BYTES", block)
        found = read(path)
    assert found.get("images", []) == json.loads(data)["images"]
    assert found.get("annotations", []) == json.loads(data)["annotations"]


@settings(deadline=None, max_examples=60, suppress_health_check=_FILE)
@given(cut=st.integers(0, 10**6), block=st.integers(1, 200))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, cut: int, block: int) -> None:
    records = [{"id": k, "name": 'é"\U0001f600', "x": [1.5e3, True, None]} for k in range(4)]
    data = json.dumps({"images": records, "n": 12, "annotations": records}).encode()
    path = tmp_path / "a.json"
    path.write_bytes(data[: cut % len(data)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_BYTES", block)
        with pytest.raises(UserError, match=r"not valid JSON|not UTF-8"):
            read(path)


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"not valid JSON where the file ends \(line 1, column 1\): expected an object"),
        ("[1]", "holds a list, not COCO annotations"),
        ('{"images": [1,\n  2,\n  oops]}' + " " * 99, "at line 3, column 3: expecting value"),
        ('{"images": [{"a": 1}\n {"a": 2}]}', "at line 2, column 2: expected ',' or ']'"),
        ('{"images" [1]}', "at line 1, column 11: expected ':' after the key 'images'"),
        ('{"images": [1]} x', "at line 1, column 17: more text after"),
        ("{images: 1}", "at line 1, column 2: expected a key in double quotes"),
        ('{"images": [1', r"where the file ends \(line 1, column 14\): expected ',' or '\]'"),
        ('{"images": {"a": 1}}', "'images' is not a list"),
        ('{"images": [], "images": []}', "has the key 'images' twice"),
        ('{"info": ' + "[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_json_is_named_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, block: int
) -> None:
    monkeypatch.setattr(stream, "BLOCK_BYTES", block if len(text) < 1000 else 1 << 22)
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read(path)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"images": ["\xff"]}')
    with pytest.raises(UserError, match=r"a\.json is not UTF-8 text \(byte 13\)"):
        read(tmp_path / "a.json")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"b\.json does not exist"):
        read(tmp_path / "b.json")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"images": [1]}')
    assert read(tmp_path / "a.json") == {"images": [1]}


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": [' + "9" * 6000 + "]}")
    with pytest.raises(UserError, match="found a number of thousands of digits"):
        read(path)
