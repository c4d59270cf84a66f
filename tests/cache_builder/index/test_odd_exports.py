"""Exports as labelling tools write them: each oddity is refused, repaired or reported, and never silent.

The small inputs are written here. The same expectations hold for the files of ../shared/cases, where they
are.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import build_index, open_index
from tests.cache_builder.index.coco_files import Coco
from tests.cache_builder.index.photo_files.samples import export, save_export, save_photo
from tests.places import SHARED

EXPORTS = SHARED.parent / "cases" / "exports"
BOX = [10, 10, 30, 40]


def one(name: str = "a.jpg", size: tuple[int, int] = (100, 80), box: Any = None, **fields: Any) -> Coco:
    """Return an export of one image with one box; a field None is removed from the annotation."""
    coco = export((name, size, [BOX if box is None else box]))
    coco["annotations"][0].update(fields)
    for key in [key for key, value in fields.items() if value is None]:
        del coco["annotations"][0][key]
    return coco


def parent_category() -> Coco:
    coco = one()
    coco["categories"][0]["supercategory"] = "animals"
    coco["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    return coco


def repeated_id() -> Coco:
    coco = export(("a.jpg", (100, 80), [BOX, [50, 10, 30, 40]]))
    for annotation in coco["annotations"]:
        annotation["id"] = 0
    return coco


CORNERS = [[60, 50, 95, 75], [40, 30, 90, 70], [20, 20, 90, 78]]
TWO_IDS = export(("a.jpg", (100, 80), [BOX]), ("a.jpg", (100, 80), []))
POLYGON = [[10, 10, 40, 10, 40, 50, 10, 50]]
TURNED = "1 photo has an EXIF orientation: their boxes are of the photo as turned (--exif apply)"
REPLACED = "1 file name was replaced by the one file of that base name inside --images"
ONE_ID = "1 annotation id was replaced: annotations are numbered by file order"
TWO_IDS_NUMBERED = "2 annotation ids were replaced: annotations are numbered by file order"

# name -> (export, words of the refusal or "", a line of the report with --lenient or "" if it refuses too)
CASES: dict[str, tuple[Coco, str, str]] = {
    "two_ids_one_file": (TWO_IDS, "has 1 image whose file another image has", ""),
    "normalised_boxes": (one(box=[0.1, 0.1, 0.2, 0.2]), "looks like shares of the photo", ""),
    "corner_boxes": (export(("a.jpg", (100, 80), CORNERS)), "3 of 3 boxes leave their photo", ""),
    "parent_category": (parent_category(), "", "1 category without boxes was left out"),
    "area_zero": (one(area=0), "", "1 box has area 0 in the file: width times height is taken"),
    "uuid_ids": (one(id="5f0c-1"), "--lenient numbers annotations", ONE_ID),
    "annotation_id_repeated": (
        repeated_id(),
        "--lenient numbers them",
        TWO_IDS_NUMBERED,
    ),
    "annotation_id_missing": (one(id=None), "--lenient numbers annotations", ONE_ID),
    "windows_path": (one("..\\..\\media\\a.jpg"), "--lenient takes the one file", REPLACED),
    "local_files_url": (one("data/local-files/?d=x/a.jpg"), "--lenient finds 1", REPLACED),
    "percent_encoded": (one("my%20photo.jpg"), "--lenient finds 1", REPLACED),
    "polygon_only": (one(bbox=None, segmentation=POLYGON), "--lenient takes the box", "1 box was taken"),
    "bbox_strings": (one(box=["10", "10", "30", "40"]), "--lenient reads it", "1 text was read as a number"),
    "exif_turned": (one("exif6.jpg", (40, 60), [5, 30, 20, 25]), "", TURNED),
}


def photos(folder: Path) -> Path:
    for name in ("a.jpg", "my photo.jpg"):
        save_photo(folder / "photos" / name, (100, 80))
    save_photo(folder / "photos" / "exif6.jpg", (60, 40), 6)
    return folder / "photos"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shared", [False, True])
def test_what_tools_write_is_refused_repaired_or_reported(name: str, shared: bool, tmp_path: Path) -> None:
    coco, refused, repaired = CASES[name]
    path, images = save_export(tmp_path, coco), photos(tmp_path)
    if shared:
        path, images = EXPORTS / f"{name}.json", EXPORTS
        if not path.is_file():
            pytest.skip("../shared/cases is not here")
    if refused:
        with pytest.raises(UserError) as caught:
            build_index(path, images, tmp_path / "strict", "all-base")
        assert refused in str(caught.value)
        assert not (tmp_path / "strict").exists(), "a refused build leaves nothing behind"
    else:
        lines = build_index(path, images, tmp_path / "strict", "all-base").lines()
        assert any(("only the parent of others" if "parent" in name else repaired) in line for line in lines)
    if not repaired:
        with pytest.raises(UserError):
            build_index(path, images, tmp_path / "lenient", "all-base", lenient=True)
        return
    lines = build_index(path, images, tmp_path / "lenient", "all-base", lenient=True).lines()
    assert any(line.startswith(repaired) for line in lines), lines
    index = open_index(tmp_path / "lenient")
    first = [5, 30, 25, 55] if name == "exif_turned" else [10, 10, 40, 50]
    assert index.box_xyxy[0].tolist() == first
    assert index.areas[0] == (first[2] - first[0]) * (first[3] - first[1])


def right() -> Coco:
    records = [("a.jpg", (100, 80), [BOX, [50, 10, 30, 40]]), ("my photo.jpg", (100, 80), [[5, 5, 60, 50]])]
    coco = export(*records, categories=("cat", "dog"))
    for number, annotation in enumerate(coco["annotations"]):
        _, _, width, height = annotation["bbox"]
        annotation |= {"category_id": 1 + number % 2, "area": width * height, "iscrowd": 0}
    return coco


MISSING = object()
ODD = [None, "", "x", [], {}, [1], -1, 1.5, True, 10**30, float("nan"), float("inf"), "7", MISSING]
BOXES = [[1, 2, 3], [1, 2, 3, 4, 5], ["10", "10", "30", "40"], [None] * 4, [0.1, 0.1, 0.2, 0.2]]
BOXES += [[10, 10, -5, 40], [10, 10, 0, 0], [-500, 10, 30, 40], [90, 70, 60, 60], [10, 10, 1e9, 40]]
NAMES = ["/etc/a.jpg", "..\\a.jpg", "../../a.jpg", "A.JPG", "b.jpg", "my%20photo.jpg", "a.jpg\x00"]
NAMES += ["C:\\x\\a.jpg", "a.jpg/", "."]
VALUES: dict[str, dict[str, list[Any]]] = {
    "annotations": {
        "id": [*ODD, 2],
        "image_id": [*ODD, "1", 99],
        "category_id": [*ODD, "1", 99],
        "bbox": [*ODD, *BOXES],
        "area": [None, "x", [], {}, -1, 0, float("nan"), MISSING],
        "iscrowd": [None, "x", [], {}, -1, 1.5, 7, True, "0", MISSING],
        "segmentation": [*ODD, [[1, 2]], [["a"] * 6], {"size": [80, 100], "counts": "?"}],
    },
    "images": {
        "id": [*ODD, 2],
        "file_name": [None, "", [], {}, 7, MISSING, *NAMES],
        "width": [*ODD, 0, "100", 1, 50],
        "height": [*ODD, 0, "80", 1, 50],
    },
    "categories": {"id": [*ODD, 2], "name": [None, "", [], {}, 7, MISSING, "dog", " "]},
}  # fmt: skip
"""Values that a field may have instead of the right one; none of them is just another right value."""

CHANGES = [
    (part, field, value) for part, by in VALUES.items() for field, all_ in by.items() for value in all_
]
WHOLE = [(part, "", value) for part in VALUES for value in (None, {}, "x", MISSING)]


@st.composite
def odd_exports(draw: st.DrawFn) -> Coco:
    """The right export with one to three odd values."""
    coco = right()
    for _ in range(draw(st.integers(1, 3))):
        part, field, value = draw(st.sampled_from(CHANGES + WHOLE))
        records = coco.get(part)
        target = coco if not field else draw(st.sampled_from(records)) if isinstance(records, list) else None
        if isinstance(target, dict):
            key = field or part
            if value is MISSING:
                target.pop(key, None)
            else:
                target[key] = copy.deepcopy(value)
    return coco


def content(folder: Path) -> list[Any]:
    """Return what an index holds, whatever the ids are."""
    index = open_index(folder)
    names = [concept.name for concept in index.concepts]
    boxes = [
        (
            index.file_name(int(index.box_images[row])),
            names[int(index.box_concepts[row])],
            index.box_xyxy[row].tolist(),
            float(index.areas[row]),
            bool(index.iscrowd[row]),
        )
        for row in range(len(index.box_images))
    ]
    sizes = zip(index.widths.tolist(), index.heights.tolist(), strict=True)
    files = sorted((index.file_name(row), size) for row, size in enumerate(sizes))
    return [sorted(names), files, sorted(boxes)]


def test_some_boxes_in_shares_of_the_photo_are_counted(tmp_path: Path) -> None:
    coco = right()
    coco["annotations"][0]["bbox"] = [0.1, 0.1, 0.2, 0.2]
    report = build_index(save_export(tmp_path, coco), photos(tmp_path), tmp_path / "out", "all-base")
    assert report.shares == 1
    assert any(line.startswith("1 box has only values of at most 1") for line in report.lines())


def test_photos_in_the_folder_of_the_column_images_are_reported(tmp_path: Path) -> None:
    images = photos(tmp_path).rename(tmp_path / "images")
    path = save_export(tmp_path, right())
    lines = build_index(path, images, tmp_path, "all-base").lines()
    assert any(f"such as --out {tmp_path / 'cckt'}" in line for line in lines)
    elsewhere = build_index(path, images, tmp_path / "cckt", "all-base").lines()
    assert not any("--out" in line for line in elsewhere)


@settings(deadline=None, max_examples=200)
@given(coco=odd_exports(), lenient=st.booleans())
@example(coco=right(), lenient=False)
def test_generated_exports_neither_crash_nor_pass_silently(coco: Coco, lenient: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = photos(folder)
        expected = build_index(save_export(folder, right()), images, folder / "right", "all-base")
        path, refusal, lines = save_export(folder, coco), "", expected.lines()
        try:
            lines = build_index(path, images, folder / "out", "all-base", lenient=lenient).lines()
        except UserError as error:
            refusal = str(error)
        if refusal:
            assert len(refusal.splitlines()) == 1
            assert not (folder / "out").exists(), "a refused build leaves nothing behind"
        elif content(folder / "out") != content(folder / "right"):
            assert set(lines[:-1]) - set(expected.lines()[:-1]), f"passed silently: {coco}"
