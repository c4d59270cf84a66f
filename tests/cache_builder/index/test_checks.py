"""Exports that would be read wrongly are refused with counts; right ones are not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import IndexReport, build_index, open_index
from tests.cache_builder.index.coco_files import Coco
from tests.cache_builder.index.photo_files.samples import export, save_export


def build(folder: Path, coco: Coco) -> IndexReport:
    return build_index(save_export(folder, coco), None, folder / "out", "all-base")


def test_an_export_without_boxes_is_accepted(tmp_path: Path) -> None:
    report = build(tmp_path, export(("a.jpg", (100, 80), [])))
    assert (report.images, report.boxes, report.zero_areas, report.parents) == (1, 0, 0, [])


@pytest.mark.parametrize(
    ("coco", "message"),
    [
        (
            export(("a.jpg", (100, 80), [[0.1, 0.1, 0.2, 0.2], [0, 0, 1, 1]])),
            r"all values of its 2 boxes are at most 1 \(the first is \[0\.1, 0\.1, 0\.2, 0\.2\]\), which "
            "looks like shares of the photo, expected pixels; multiply them",
        ),
        (
            export(("a.jpg", (100, 80), [[60, 50, 95, 75], [40, 30, 90, 70], [20, 20, 50, 30]])),
            r"2 of 3 boxes leave their photo \(the first is \[60\.0, 50\.0, 95\.0, 75\.0\]\) and all of them "
            "fit as corners",
        ),
        (
            export(("a.jpg", (100, 80), [[1, 1, 9, 9]]), ("b.jpg", (9, 9), []), ("a.jpg", (100, 80), [])),
            r"has 1 image whose file another image has \(the first is 'a\.jpg', image ids 1 and 3\)",
        ),
        (
            export(("a.jpg", (100, 80), [[1, 1, 9, 9]]), categories=("fire truck", "dog", "fire  truck")),
            r"has 1 category with the name of another one \(the first is 'fire truck', ids 1 and 3\)",
        ),
    ],
)
def test_an_export_that_would_be_read_wrongly_is_refused(tmp_path: Path, coco: Coco, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path, coco)
    assert str(tmp_path / "export.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists(), "a refused build leaves nothing behind"


def test_categories_whose_names_differ_in_case_are_reported(tmp_path: Path) -> None:
    report = build(
        tmp_path, export(("a.jpg", (100, 80), [[1, 1, 9, 9]]), categories=("cat", "fire_truck", "Cat"))
    )
    assert report.similar == [("cat", "Cat")]
    assert any("1 category has the name of another one up to case and '_'" in line for line in report.lines())


def test_two_names_of_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "000000000009.jpg").touch()
    numbered = [("000000000009.jpg", (9, 9), []), ("train2017/000000000009.jpg", (9, 9), [])]
    path = save_export(tmp_path, export(*numbered))
    with pytest.raises(UserError, match="1 image whose file another image has"):
        build_index(path, tmp_path / "photos", tmp_path / "out", "all-base")


def test_two_spellings_of_one_file_are_refused(tmp_path: Path) -> None:
    images = [("a.jpg", (9, 9), [[1, 1, 5, 5]]), ("./a.jpg", (9, 9), []), ("sub//b.jpg", (9, 9), [])]
    with pytest.raises(UserError, match="1 image whose file another image has"):
        build(tmp_path / "one", export(*images))
    parts = [save_export(tmp_path / name, export(image)) for name, image in zip("xy", images, strict=False)]
    with pytest.raises(UserError, match=r"1 photo is in both .*'a\.jpg'"):
        build_index(parts, None, tmp_path / "out", "all-base")


@pytest.mark.parametrize(
    ("mark", "difficult"), [("0", 0), ("false", 0), (False, 0), (0.0, 0), ("True", 1), (1, 1), (None, 0)]
)
def test_marks_that_are_texts(tmp_path: Path, mark: object, difficult: int) -> None:
    coco = export(("a.jpg", (40, 40), [[1, 1, 9, 9], [2, 2, 9, 9]]))
    coco["annotations"][0]["ignore"] = mark
    build(tmp_path, coco)
    assert open_index(tmp_path / "out").difficult.tolist() == [bool(difficult), False]


@pytest.mark.parametrize("mark", ["maybe", 2, [1], {}])
def test_marks_that_say_nothing_are_refused(tmp_path: Path, mark: object) -> None:
    coco = export(("a.jpg", (40, 40), [[1, 1, 9, 9]]))
    coco["annotations"][0]["difficult"] = mark
    with pytest.raises(UserError, match=r"difficult of annotation .* expected 0 or 1"):
        build(tmp_path, coco)


def test_an_area_of_0_becomes_width_times_height_and_is_counted(tmp_path: Path) -> None:
    coco = export(("a.jpg", (100, 80), [[10, 10, 30, 40], [10, 10, 30, 40], [1, 1, 5, 5]]))
    coco["annotations"][0]["area"], coco["annotations"][1]["area"] = 0, 900
    report = build(tmp_path, coco)
    assert report.zero_areas == 1
    assert open_index(tmp_path / "out").areas.tolist() == [1200, 900, 25]
    assert "1 box has area 0 in the file: width times height is taken" in report.lines()


def test_a_parent_category_without_boxes_is_reported(tmp_path: Path) -> None:
    coco = export(("a.jpg", (100, 80), [[10, 10, 30, 40]]), categories=("cat", "animals", "dog", "person"))
    for category, parent in zip(coco["categories"], ("animals", "none", "animals", "person"), strict=True):
        category["supercategory"] = parent
    report = build(tmp_path, coco)
    assert report.parents == ["animals"], "a category that is its own parent is none"
    assert any("only the parent of others ('animals'): --lenient leaves" in line for line in report.lines())
    coco["annotations"][0]["category_id"] = 2
    assert build(tmp_path, coco).parents == [], "it has a box"


_side = st.integers(8, 60)


@st.composite
def photos(draw: st.DrawFn) -> list[tuple[str, tuple[int, int], list[Any]]]:
    """Records with boxes inside their photos, at least one with a side of 2 pixels."""
    records = []
    for number in range(draw(st.integers(1, 4))):
        width, height = draw(_side), draw(_side)
        boxes = []
        for _ in range(draw(st.integers(1, 5))):
            x, y = draw(st.integers(0, width - 3)), draw(st.integers(0, height - 3))
            boxes.append([x, y, draw(st.integers(2, width - x)), draw(st.integers(2, height - y))])
        records.append((f"{number}.jpg", (width, height), boxes))
    return records


@settings(deadline=None, max_examples=50)
@given(records=photos())
def test_right_boxes_are_accepted_and_shares_and_corners_refused_or_counted(
    records: Any,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = sum(len(boxes) for _, _, boxes in records)
        report = build(folder, export(*records))
        assert (report.boxes, report.clipped) == (count, 0)
        shares = [
            (name, (w, h), [[x / w, y / h, bw / w, bh / h] for x, y, bw, bh in boxes])
            for name, (w, h), boxes in records
        ]
        with pytest.raises(UserError, match=f"all values of its {count} box(es)? are at most 1"):
            build(folder, export(*shares))
        corners = [
            (name, size, [[x, y, x + bw, y + bh] for x, y, bw, bh in boxes]) for name, size, boxes in records
        ]
        leaves = [
            x + x + bw > w + max(1, 0.02 * w) or y + y + bh > h + max(1, 0.02 * h)
            for _, (w, h), boxes in records
            for x, y, bw, bh in boxes
        ]
        if sum(leaves) > len(leaves) / 2:
            with pytest.raises(UserError, match="fit as corners"):
                build(folder, export(*corners))
        else:
            assert build(folder, export(*corners)).clipped >= sum(leaves)
