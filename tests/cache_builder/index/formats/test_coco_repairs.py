"""--lenient repairs what can only mean one thing, lists it, and gives the index of the right file."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import IndexReport, add_boxes, build_index, copy_index, open_index
from tests.cache_builder.index.coco_files import Coco, small_coco
from tests.cache_builder.index.photo_files.samples import export, save_export, save_photo

BOXES = [[10, 10, 30, 40], [50, 10, 30, 40]]


def right() -> Coco:
    return export(("sub/my photo.jpg", (100, 80), BOXES))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photo(tmp_path / "photos/sub/my photo.jpg", (100, 80))
    save_photo(tmp_path / "photos/other.jpg", (100, 80))
    return tmp_path


def build(folder: Path, coco: Coco, lenient: bool = True, out: str = "out") -> IndexReport:
    path = save_export(folder, coco)
    return build_index(path, folder / "photos", folder / out, "all-base", lenient=lenient)


def test_a_right_export_has_no_repairs_and_the_same_index(folder: Path) -> None:
    strict, lenient = build(folder, right(), lenient=False), build(folder, right())
    assert lenient.repairs == {}
    assert lenient.unchanged, "card and tables have the same bytes"
    assert lenient.digest == strict.digest
    assert "repairs" not in open_index(folder / "out").card


def test_an_export_without_boxes_has_no_repairs(folder: Path) -> None:
    assert build(folder, export(("other.jpg", (100, 80), []))).repairs == {}


def annotations(**fields: Any) -> Callable[[Coco], None]:
    return lambda coco: [one.update(fields) for one in coco["annotations"]]  # type: ignore[return-value]


def polygons(coco: Coco) -> None:
    for one in coco["annotations"]:
        x, y, w, h = one.pop("bbox")
        one["segmentation"] = [[x, y, x + w, y, x + w, y + h]]


def texts(coco: Coco) -> None:
    for one in coco["annotations"]:
        one["bbox"] = [f" {value}.0" for value in one["bbox"]]
        one["image_id"] = "1"
    coco["images"][0]["width"] = "100"


def parent(coco: Coco) -> None:
    coco["categories"][0]["supercategory"] = "animals"
    coco["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})


def uuids(coco: Coco) -> None:
    for part in ("images", "annotations", "categories"):
        for one in coco[part]:
            one["id"] = str(UUID(int=one["id"]))
    for one in coco["annotations"]:
        one["image_id"], one["category_id"] = str(UUID(int=1)), str(UUID(int=1))


def named(name: str) -> Callable[[Coco], None]:
    return lambda coco: coco["images"][0].update(file_name=name)


ODD = [
    (lambda c: [one.pop("id") for one in c["annotations"]], {"annotation_ids": 2}, "numbers annotations"),
    (annotations(id=1), {"annotation_ids": 1}, "numbers them by file order"),
    (annotations(id="5f0c-1"), {"annotation_ids": 2}, "numbers annotations by file order"),
    (uuids, {"annotation_ids": 2, "image_ids": 1, "category_ids": 1}, "--lenient"),
    (texts, {"numbers": 5}, "--lenient reads"),
    (polygons, {"boxes": 2}, "takes the box of its segmentation"),
    (named("C:\\media\\my photo.jpg"), {"file_names": 1}, "takes the one file of that base name"),
    (named("/media/upload/my photo.jpg"), {"file_names": 1}, "takes the one file of that base name"),
    (named("..\\..\\my photo.jpg"), {"file_names": 1}, "takes the one file of that base name"),
    (named("sub/my%20photo.jpg"), {"file_names": 1}, "finds 1 of them by their base name"),
    (named("data/local-files/?d=x/My Photo.JPG"), {"file_names": 1}, "finds 1 of them by their base name"),
    (named("https://host/my%20photo.jpg?size=9"), {"file_names": 1}, "finds 1 of them by their base name"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "counts", "hint"), ODD)
def test_an_odd_export_is_refused_naming_lenient_which_gives_the_right_index(
    folder: Path, change: Callable[[Coco], Any], counts: dict[str, int], hint: str
) -> None:
    coco = right()
    change(coco)
    with pytest.raises(UserError, match=hint) as caught:
        build(folder, coco, lenient=False)
    assert "--lenient" in str(caught.value)
    report = build(folder, coco)
    assert report.repairs == counts
    assert report.digest == build(folder, right(), out="right").digest
    index = open_index(folder / "out")
    listed = json.loads((folder / "out" / "index" / index.card["repairs"]["file"]).read_text())
    assert (
        {kind: len(entries) for kind, entries in listed.items()} == counts == index.card["repairs"]["counts"]
    )
    assert all(set(entry) == {"of", "found", "taken"} for entries in listed.values() for entry in entries)
    assert any(index.card["repairs"]["file"] in line for line in report.lines())


def test_a_parent_category_is_left_out(folder: Path) -> None:
    coco = right()
    parent(coco)
    assert build(folder, coco, lenient=False).parents == ["animals"]
    report = build(folder, coco)
    assert (report.repairs, report.parents) == ({"parents": 1}, [])
    assert report.digest == build(folder, right(), out="right").digest


def test_unicode_forms_of_one_name_are_one_file(folder: Path) -> None:
    save_photo(folder / "photos" / unicodedata.normalize("NFD", "é.jpg"), (100, 80))
    coco = export((unicodedata.normalize("NFC", "é.jpg"), (100, 80), BOXES))
    assert build(folder, coco).repairs == {"file_names": 1}


def test_a_name_that_fits_several_files_is_refused(folder: Path) -> None:
    save_photo(folder / "photos/more/my photo.jpg", (100, 80))
    coco = right()
    coco["images"][0]["file_name"] = "/x/my photo.jpg"
    with pytest.raises(UserError, match=r"fits 2 files inside .* \(more/my photo\.jpg, sub/my photo\.jpg\)"):
        build(folder, coco)


def test_missing_photos_that_lenient_would_find_are_counted(folder: Path) -> None:
    coco = export(("other.jpg", (100, 80), BOXES), ("my%20photo.jpg", (100, 80), []))
    report = build(folder, coco, lenient=False)
    assert (report.photos_missing, report.findable) == (1, 1)
    assert "--lenient finds 1 of the missing photos by their base name" in report.lines()


def test_ids_are_found_whatever_the_order_of_the_lists(folder: Path) -> None:
    coco = right()
    uuids(coco)
    digest = build(folder, coco).digest
    assert build(folder, dict(reversed(coco.items()))).digest == digest


def test_what_cannot_be_repaired_is_refused_without_naming_lenient(folder: Path) -> None:
    for change, message in (
        (annotations(bbox=["a", 1, 2, 3]), "holds 'a'; expected numbers"),
        (annotations(bbox=None, segmentation=[[1, 2]]), "has bbox None"),
        (annotations(image_id="x"), "image_id of annotation 1 is 'x'"),
        (named("../nothing.jpg"), "leaves the images folder"),
        (lambda c: c["images"].append(dict(c["images"][0])), "the image id 1 more than once"),
    ):
        coco = right()
        change(coco)
        with pytest.raises(UserError, match=message) as caught:
            build(folder, coco)
        assert "--lenient" not in str(caught.value)


def test_copies_keep_the_list_and_a_later_build_removes_it(folder: Path) -> None:
    coco = right()
    polygons(coco)
    build(folder, coco)
    index = open_index(folder / "out")
    name = index.card["repairs"]["file"]
    copy_index(index, folder / "copy")
    none = np.empty(0, np.int64)
    add_boxes(index, folder / "more", none, none, np.empty((0, 4)), {"run": "r"})
    texts_of = [(folder / one / "index" / name).read_bytes() for one in ("out", "copy", "more")]
    assert len(set(texts_of)) == 1
    assert build(folder, coco).unchanged
    (folder / "copy" / "index" / name).unlink()
    copy_index(open_index(folder / "copy"), folder / "again")
    assert "repairs" not in open_index(folder / "again").card
    build(folder, right())
    assert not (folder / "out" / "index" / name).exists()


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_mixture_of_oddities_gives_the_boxes_of_the_right_file(data: st.DataObject) -> None:
    coco = small_coco()
    for image in coco["images"]:
        image["file_name"] = data.draw(
            st.sampled_from(["{}", "/x/{}", "C:\\y\\{}", "..\\{}", "%2E/{}"])
        ).format(image["file_name"].rpartition("/")[2])
    for one in coco["annotations"]:
        kind = data.draw(st.sampled_from(["as it is", "texts", "polygon"]))
        x, y, w, h = one["bbox"]
        if kind == "texts":
            one |= {"bbox": [str(value) for value in one["bbox"]], "image_id": str(one["image_id"])}
        elif kind == "polygon":
            del one["bbox"]
            one["segmentation"] = [[x, y, x + w, y + h, x, y + h]]
        ident = data.draw(st.sampled_from(["keep", "missing", "uuid"]))
        if ident == "missing":
            del one["id"]
        elif ident == "uuid":
            one["id"] = str(UUID(int=one["id"]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("c.jpg", "sub/a.jpg", "b.jpg"):
            (folder / "photos" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "photos" / file).touch()
        report = build(folder, coco)
        build(folder, small_coco(), out="right")
        found, expected = open_index(folder / "out"), open_index(folder / "right")
        assert report.photos_missing == 0
        assert found.image_ids.tolist() == expected.image_ids.tolist()
        assert [found.file_name(row) for row in range(3)] == [expected.file_name(row) for row in range(3)]

        def boxes(index: Any) -> list[Any]:
            return sorted(zip(index.box_images.tolist(), index.box_xyxy.tolist(), strict=True))

        assert boxes(found) == boxes(expected)
