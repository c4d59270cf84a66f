"""data.yaml of YOLO folders and lists of photos: links, and names of classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.cache_builder.index.formats.yolo_card import class_names, read_card
from tests.cache_builder.index.formats.test_yolo import build, write_yolo
from tests.cache_builder.index.photo_files.samples import save_photo

LABEL = "0 0.5 0.5 0.5 0.5\n"


def write_list(folder: Path, *lines: str) -> Path:
    """Write a YOLO folder whose photos are those of a list, with one photo in `pool` and a link to it."""
    path = write_yolo(folder, {}, train="list.txt")
    (folder / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    save_photo(folder / "pool/a.jpg", (100, 80))
    for place in ("images", "labels"):
        (folder / place).mkdir()
    (folder / "images/a.jpg").symlink_to("../pool/a.jpg")
    (folder / "labels/a.txt").write_text(LABEL)
    return path


@pytest.mark.parametrize(
    "line", ["./images/a.jpg", "images/../images//a.jpg", "../images/a.jpg", "{}/images/a.jpg"]
)
def test_a_link_in_a_list_has_the_labels_of_its_own_name(tmp_path: Path, line: str) -> None:
    report = build(write_list(tmp_path, line.format(tmp_path)))
    assert (report.images, report.boxes) == (1, 1)
    assert open_index(tmp_path / "out").file_name(0) == "images/a.jpg"


def test_a_list_may_name_photos_by_another_way_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to("data")
    (tmp_path / "data").mkdir()
    path = write_list(tmp_path / "data", f"{tmp_path}/way/images/b.jpg")
    save_photo(tmp_path / "data/images/b.jpg", (100, 80))
    (tmp_path / "data/labels/b.txt").write_text(LABEL)
    assert build(path).boxes == 1


def test_a_parent_of_a_linked_folder_is_that_of_its_target(tmp_path: Path) -> None:
    path = write_list(tmp_path, "images/link/../b.jpg")
    save_photo(tmp_path / "deep/images/b.jpg", (100, 80))
    save_photo(tmp_path / "images/b.jpg", (100, 80))
    (tmp_path / "deep/images/sub").mkdir()
    (tmp_path / "images/link").symlink_to("../deep/images/sub")
    (tmp_path / "deep/images/b.txt").write_text(LABEL)
    build(path)
    assert open_index(tmp_path / "out").file_name(0) == "deep/images/b.jpg"


@pytest.mark.parametrize(
    "line", ["images/out.jpg", "images/up/other.jpg", "images/../../other.jpg", "../../other.jpg"]
)
def test_a_photo_of_a_list_may_not_be_outside(tmp_path: Path, line: str) -> None:
    (tmp_path / "data").mkdir()
    path = write_list(tmp_path / "data", line)
    save_photo(tmp_path / "other.jpg", (100, 80))
    (tmp_path / "data/images/out.jpg").symlink_to("../../other.jpg")
    (tmp_path / "data/images/up").symlink_to("../..")
    with pytest.raises(UserError, match=r"list\.txt lists .*, which is no file inside"):
        build(path)


def names_of(folder: Path, text: str) -> dict[int, str]:
    path = folder / "data.yaml"
    path.write_text(text)
    return class_names(read_card(path), path)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: no, 1: on}", ["no", "on"]),
        ("[1, 0o7, 1:30, 010, 1.50, 1e3, .inf]", ["1", "0o7", "1:30", "010", "1.50", "1e3", ".inf"]),
        ("[2001-01-01, 2001-99-99, =, <<]", ["2001-01-01", "2001-99-99", "=", "<<"]),
        ("\n- Yes\n- off # a note\n- traffic   light", ["Yes", "off", "traffic light"]),
        ("{0: 'no', 1: \"on\", 2: 'null'}", ["no", "on", "null"]),
        ("[&a no, *a]", ["no", "no"]),
    ],
)
def test_names_of_classes_are_the_text_that_is_written(tmp_path: Path, text: str, names: list[str]) -> None:
    assert names_of(tmp_path, f"names: {text}\n") == dict(enumerate(names))


def test_names_that_share_a_value_with_another_key_do_not_change_it(tmp_path: Path) -> None:
    assert names_of(tmp_path, "nc: &n 1\nnames: [*n]\n") == {0: "1"}
    assert names_of(tmp_path, "others: &o [1]\nnames: *o\n") == {0: "1"}
    assert read_card(tmp_path / "data.yaml")["others"] == [1]


@pytest.mark.parametrize("text", ["{0: }", "[null]", "[~]", "{0: ''}", "{no: cat}", "{<<: {0: no}, 1: cat}"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        UserError, match=r"'names' has .*, expected a number and a name; correct it, with quotes"
    ):
        names_of(tmp_path, f"names: {text}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: cat, 0: dog, 1: bird}", r"data\.yaml, line 1: found the key 0 twice, expected it once"),
        ("names:\n  0: cat\n  0x0: dog", "line 3: found the key 0 twice"),
        ("names: [cat]\ntrain: a\nnames: [dog]", "line 3: found the key 'names' twice"),
        ("names: [cat]\nmore: [{a: 1, a: 1}]", "line 2: found the key 'a' twice"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        names_of(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_key_of_a_merged_table_may_be_replaced(tmp_path: Path) -> None:
    text = "a: &a {0: 'cat', 1: 'dog'}\nx: {y: &b {<<: *a, 1: 'cow'}}\nz: {<<: *b}\n"
    assert names_of(tmp_path, text + "names: {<<: *b, 1: no}\n") == {0: "cat", 1: "no"}
    assert read_card(tmp_path / "data.yaml")["x"]["y"] == {0: "cat", 1: "cow"}
