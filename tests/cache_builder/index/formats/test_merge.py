"""Several annotation files give one index; clashes are refused, or numbered by --lenient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index import IndexReport, build_index, open_index
from cckt.cache_builder.index.formats.coco import read_coco
from cckt.cache_builder.index.formats.merge import merge
from cckt.cache_builder.index.formats.repairs import Repairs
from tests.cache_builder.index.coco_files import Coco, small_coco
from tests.cache_builder.index.photo_files.samples import export


def build(folder: Path, *cocos: Coco, lenient: bool = False) -> IndexReport:
    paths = []
    for number, coco in enumerate(cocos):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps(coco))
    return build_index(paths, None, folder / "out", "all-base", lenient=lenient)


def shares(coco: Coco, *rows: int) -> Coco:
    """Return the images `rows` of a COCO dict with their annotations."""
    images = [coco["images"][row] for row in rows]
    ids = {one["id"] for one in images}
    return {**coco, "images": images, "annotations": [a for a in coco["annotations"] if a["image_id"] in ids]}


def test_one_file_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(small_coco()))
    part = read_coco(path, Silent(), Repairs())
    assert merge([part], Repairs()) is part


def test_parts_of_a_data_set_give_the_whole(tmp_path: Path) -> None:
    whole = build(tmp_path, small_coco())
    parts = build(tmp_path, shares(small_coco(), 2), shares(small_coco(), 0, 1))
    assert parts.digest == whole.digest
    source = open_index(tmp_path / "out").card["source"]
    assert source["file"] == "0.json and 1.json"
    assert [one["file"] for one in source["files"]] == ["0.json", "1.json"]


def test_a_file_without_boxes_and_one_with_more_categories_are_merged(tmp_path: Path) -> None:
    first = export(("a.jpg", (90, 80), []), categories=("cat",))
    second = export(("b.jpg", (90, 80), [[1, 2, 3, 4]]), categories=("cat", "dog"))
    second["images"][0]["id"] = second["annotations"][0]["image_id"] = 2
    report = build(tmp_path, first, second)
    index = open_index(tmp_path / "out")
    assert (report.images, report.boxes, index.concepts.names) == (2, 1, ["cat", "dog"])


def test_marks_of_lvis_stay_with_their_image(tmp_path: Path) -> None:
    coco = small_coco()
    for image in coco["images"]:
        image["neg_category_ids"] = [9] if image["id"] == 12 else [2]
    build(tmp_path, shares(coco, 1), shares(coco, 0, 2))
    index = open_index(tmp_path / "out")
    assert [index.negatives_of(row).tolist() for row in range(3)] == [[0], [2], [0]]


def other(**fields: Any) -> Coco:
    """Return a second file, without any clash unless `fields` make one."""
    coco = export(("b.jpg", (90, 80), [[5, 6, 7, 8]]), categories=fields.get("categories", ("cat", "dog")))
    coco["images"][0] |= {"id": fields.get("image", 2), "file_name": fields.get("name", "b.jpg")}
    coco["annotations"][0] |= {"id": fields.get("annotation", 2), "image_id": fields.get("image", 2)}
    return coco


FIRST = export(("a.jpg", (90, 80), [[1, 2, 3, 4]]), categories=("cat", "dog"))


@pytest.mark.parametrize(
    ("second", "message", "counts"),
    [
        (other(image=1), r"0\.json and .*1\.json share 1 image id \(the first is 1\)", {"image_ids": 1}),
        (other(annotation=1), r"share 1 annotation id \(the first is 1\)", {"annotation_ids": 1}),
        (
            other(categories=("dog", "cat")),
            r"category 1 is 'cat' in .*0\.json and 'dog' in .*1\.json, expected one id and one name",
            {"category_ids": 2},
        ),
        (
            other(categories=("bird", "mouse", "cat")),
            r"category 1 is 'cat' in .*0\.json and 'bird' in",
            {"category_ids": 3},
        ),
    ],
)
def test_clashes_are_refused_and_lenient_numbers_them(
    tmp_path: Path, second: Coco, message: str, counts: dict[str, int]
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path, FIRST, second)
    assert "--lenient" in str(caught.value)
    report = build(tmp_path, FIRST, second, lenient=True)
    assert report.repairs == counts
    index = open_index(tmp_path / "out")
    names = [index.concepts[row].name for row in index.box_concepts]
    assert names == ["cat", second["categories"][0]["name"]]
    assert [index.file_name(row) for row in index.box_images] == ["a.jpg", "b.jpg"]
    assert index.box_xyxy.tolist() == [[1, 2, 4, 6], [5, 6, 12, 14]]


def test_one_name_with_two_ids_is_refused(tmp_path: Path) -> None:
    second = other()
    second["categories"] = [{"id": 7, "name": "Cat"}]
    second["annotations"][0]["category_id"] = 7
    with pytest.raises(UserError, match=r"the category 'Cat' has the id 1 in .*0\.json and 7 in .*1\.json"):
        build(tmp_path, FIRST, second)
    build(tmp_path, FIRST, second, lenient=True)
    assert open_index(tmp_path / "out").concepts.names == ["cat", "dog"]


def test_similar_names_of_one_file_are_two_categories_and_not_matched_by_name(tmp_path: Path) -> None:
    first, second = ({**coco, "categories": list(coco["categories"])} for coco in (FIRST, other()))
    for coco in (first, second):
        coco["categories"].append({"id": 3, "name": "Cat"})
    build(tmp_path, first, second)
    assert open_index(tmp_path / "out").concepts.names == ["cat", "dog", "Cat"]
    second["categories"][2] = {"id": 4, "name": "Cat"}
    with pytest.raises(UserError, match="the category 'Cat' has the id 1 in"):
        build(tmp_path, first, second)
    with pytest.raises(UserError, match=r"0\.json has categories whose names differ only in case or '_'"):
        build(tmp_path, first, second, lenient=True)


def test_a_photo_in_two_files_is_refused(tmp_path: Path) -> None:
    for lenient in (False, True):
        with pytest.raises(UserError, match=r"1 photo is in both .*0\.json and .*1\.json .*'a\.jpg'"):
            build(tmp_path, FIRST, other(name="a.jpg"), lenient=lenient)


@given(assigned=st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_any_partition_gives_the_whole(tmp_path_factory: pytest.TempPathFactory, assigned: list[int]) -> None:
    folder = tmp_path_factory.mktemp("parts")
    rows = [[row for row, part in enumerate(assigned) if part == number] for number in range(3)]
    parts = [shares(small_coco(), *some) for some in rows if some]
    assert build(folder, *parts).digest == build(folder, small_coco()).digest
