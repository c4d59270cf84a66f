"""Pascal VOC folders: what is read, and every refusal."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import IndexReport, build_index, open_index
from cckt.cache_builder.index.formats.voc import read_voc, voc_images
from tests.cache_builder.index.photo_files.samples import save_photo


def xml(name: str, *objects: tuple[str, tuple[Any, ...]], size: tuple[Any, Any] = (100, 80)) -> str:
    """Return an annotation with objects of a class and corners."""
    parts = [
        f"<object><name>{kind}</name><difficult>{number % 2}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for number, (kind, box) in enumerate(objects)
    ]
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{sides}{''.join(parts)}</annotation>"


def write_voc(folder: Path, *texts: str) -> Path:
    """Write a VOC folder: photos and annotations a, b, c ..."""
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    for stem, text in zip("abcdef", texts, strict=False):
        save_photo(folder / "JPEGImages" / f"{stem}.jpg", (100, 80))
        (folder / "Annotations" / f"{stem}.xml").write_text(text)
    return folder


def build(folder: Path, subset: str | None = None) -> IndexReport:
    read = partial(read_voc, subset=subset)
    return build_index(folder, voc_images(folder), folder / "out", "all-base", read=read)


def test_a_photo_without_objects_is_kept(tmp_path: Path) -> None:
    report = build(write_voc(tmp_path, xml("a.jpg"), xml("b.jpg", ("cat", (1, 1, 100, 80)))))
    assert (report.images, report.images_without_boxes) == (2, 1)


def test_corners_are_counted_from_1_and_both_inside(tmp_path: Path) -> None:
    objects = [("dog", (1, 1, 100, 80)), ("cat", (11, 21, 20, 40.5))]
    report = build(write_voc(tmp_path, xml("a.jpg", *objects)))
    index = open_index(tmp_path / "out")
    assert index.box_xyxy.tolist() == [[0, 0, 100, 80], [10, 20, 20, 40.5]]
    assert index.difficult.tolist() == [False, True]
    assert index.concepts.names == ["cat", "dog"]
    assert "corners are counted from 1, as in Pascal VOC" in report.lines()


@pytest.mark.parametrize(
    ("text", "difficult"), [("False", False), (" 0 ", False), ("", False), ("true", True)]
)
def test_marks_of_difficult_objects(tmp_path: Path, text: str, difficult: bool) -> None:
    whole = xml("a.jpg", ("dog", (1, 1, 100, 80))).replace("<difficult>0", f"<difficult>{text}")
    build(write_voc(tmp_path, whole))
    assert open_index(tmp_path / "out").difficult.tolist() == [difficult]


def test_a_mark_that_says_nothing_is_refused(tmp_path: Path) -> None:
    whole = xml("a.jpg", ("dog", (1, 1, 100, 80))).replace("<difficult>0", "<difficult>maybe")
    with pytest.raises(UserError, match="<difficult> of an object is 'maybe', expected 0 or 1"):
        build(write_voc(tmp_path, whole))


def test_corners_with_a_0_are_plain(tmp_path: Path) -> None:
    report = build(write_voc(tmp_path, xml("a.jpg", ("cat", (0, 5, 50, 60)), ("cat", (10, 20, 30, 40)))))
    assert open_index(tmp_path / "out").box_xyxy.tolist() == [[0, 5, 50, 60], [10, 20, 30, 40]]
    assert "corners are counted from 0: some are 0" in report.lines()


def test_a_subset_has_the_ids_of_the_whole(tmp_path: Path) -> None:
    write_voc(tmp_path, xml("a.jpg", ("cat", (1, 1, 9, 9))), xml("b.jpg", ("dog", (1, 1, 9, 9))))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("b  1\n")
    build(tmp_path, "val")
    index = open_index(tmp_path / "out")
    assert (index.image_ids.tolist(), index.concepts.names) == ([2], ["cat", "dog"])
    (tmp_path / "ImageSets/Main/val.txt").write_text("b\nz\n")
    with pytest.raises(UserError, match=r"val\.txt lists 2 photos, 1 of them without .*first is z"):
        build(tmp_path, "val")
    with pytest.raises(UserError, match=r"test\.txt cannot be read, expected the names of photos"):
        build(tmp_path, "test")


def test_a_photo_is_found_by_the_name_of_its_xml_file(tmp_path: Path) -> None:
    build(write_voc(tmp_path, xml("", ("cat", (1, 1, 9, 9))), xml("IMG_1.bmp", ("cat", (1, 1, 9, 9)))))
    index = open_index(tmp_path / "out")
    assert [index.file_name(row) for row in range(2)] == ["a.jpg", "b.jpg"]


CAT = ("cat", (1, 1, 9, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.xml is not valid XML"),
        ("<annotation>", r"a\.xml is not valid XML"),
        ("<html/>", "holds <html>, expected <annotation>"),
        ("<annotation/>", "<size> has the width '', expected the photo's size"),
        (xml("a.jpg", CAT, size=(0, 80)), "<size> has the width '0'"),
        (xml("a.jpg", ("", (1, 1, 9, 9))), "an object has no <name>"),
        (xml("a.jpg", ("cat", (1, "x", 9, 9))), "<bndbox> has the ymin 'x', expected pixels"),
        (xml("a.jpg", ("cat", ("nan", 1, 9, 9))), "<bndbox> has the xmin 'nan'"),
        (xml("a.jpg"), "none of its 1 XML file has an object"),
        (xml("../a.png", CAT), ""),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares entities"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write_voc(tmp_path, text)
    if not message:
        assert build(tmp_path).photos_missing == 0, "the photo named like the XML file is taken"
        return
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no XML files, expected one per photo"):
        build(tmp_path)


@settings(deadline=None, max_examples=30)
@given(boxes=st.lists(st.tuples(*[st.integers(1, 40)] * 4), min_size=1, max_size=6))
def test_boxes_are_kept_or_counted(tmp_path_factory: pytest.TempPathFactory, boxes: list[Any]) -> None:
    boxes = [(1, 1, 30, 30), *boxes]
    folder = write_voc(tmp_path_factory.mktemp("voc"), xml("a.jpg", *(("cat", box) for box in boxes)))
    report = build(folder)
    right = [box for box in boxes if box[2] >= box[0] and box[3] >= box[1]]
    assert (report.boxes, report.dropped["no_area"]) == (len(right), len(boxes) - len(right))
    expected = [[x0 - 1, y0 - 1, x1, y1] for x0, y0, x1, y1 in right]
    assert open_index(folder / "out").box_xyxy.tolist() == expected
