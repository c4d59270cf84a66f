"""data.yaml and XML files that strangers wrote: one sentence, no bomb, nothing outside of the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError, brief
from tests.cache_builder.index.formats.test_voc import build as build_voc
from tests.cache_builder.index.formats.test_voc import write_voc, xml
from tests.cache_builder.index.formats.test_yolo import build as build_yolo
from tests.cache_builder.index.formats.test_yolo import write_yolo

LAUGHS = "\n".join(
    ["a0: &a0 [lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))]
)
"""A YAML text whose value a11 has 10^11 items."""
ENTITIES = '<!DOCTYPE a [<!ENTITY b "lol">]><annotation>&b;</annotation>'


def test_a_value_that_refers_to_itself_many_times_is_shown_in_part() -> None:
    value: list[object] = ["lol"]
    for _ in range(40):
        value = [value] * 10
    assert len(brief(value)) == 80
    assert brief({"a": [1, 2.5, None], "b": "x" * 40}) == repr({"a": [1, 2.5, None], "b": "x" * 40})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LAUGHS}\nnames: *a11\ntrain: images/train", "'names' has 0: "),
        (f"{LAUGHS}\nnames: {{0: *a11}}\ntrain: images/train", "'names' has 0: "),
        (f"{LAUGHS}\nnames: [cat]\ntrain: *a11", "the entry 'train' is "),
        (f"{LAUGHS}\nnames: [cat]\nnc: *a11\ntrain: images/train", "'nc' is "),
        (f"{LAUGHS}\nnames: a\ntrain: images/train", "'names' is 'a'"),
        ("names: [cat]\ntrain: 2001-99-99", "is not YAML"),
        (f"names: {{{'9' * 5000}: a}}\ntrain: images/train", "is not YAML"),
        (f"names: {'[' * 5000}", "is not YAML"),
        ("names: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("names: [cat]\ntrain: ../../etc", "which is no folder or list of photos inside"),
        ('names: [cat]\ntrain: "a\\0b"', "which is no folder or list of photos inside"),
        ("names: [cat]\ntrain: list.txt", "is no text, expected the name of a photo on each line"),
    ],
    ids=range(12),
)
def test_a_data_yaml(tmp_path: Path, text: str, message: str) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"})
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x01")
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        build_yolo(path)
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ENTITIES.encode(), "declares entities"),
        (ENTITIES.encode("utf-16"), "a.xml"),
        (b"<annotation>" * 200_000, "a.xml"),
        (b"<annotation>" * 20_000 + b"</annotation>" * 20_000, "a.xml"),
        (b"\x00", "is not valid XML"),
        (b"<?xml version='1.0' encoding='no-such'?><annotation/>", "is not valid XML"),
        (xml("../../etc/passwd", ("cat", (1, 1, 9, 9))).encode(), "passwd"),
    ],
    ids=range(7),
)
def test_a_voc_file(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_voc(tmp_path, xml("a.jpg", ("cat", (1, 1, 100, 80))))
    (folder / "Annotations/a.xml").write_bytes(content)
    (folder / "JPEGImages/a.jpg").rename(folder / "JPEGImages/other.jpg")
    with pytest.raises(UserError, match=message):
        build_voc(folder)
    assert not (tmp_path / "out").exists()
