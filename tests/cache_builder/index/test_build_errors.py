"""Mistakes in annotation files, folders and options, each refused with one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import build_index, open_index
from tests.cache_builder.index.coco_files import Coco, small_coco, write_coco

Change = Callable[[Coco], Any]


def annotation(**fields: Any) -> Change:
    return lambda coco: coco["annotations"][0].update(fields)


def image(**fields: Any) -> Change:
    return lambda coco: coco["images"][0].update(fields)


def without(part: str, key: str) -> Change:
    return lambda coco: coco[part][0].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.pop("annotations"),
            r"the key 'annotations' is missing \(it has 'info', 'images', 'categories'\)",
        ),
        (
            lambda c: c.clear(),
            r"the key 'images' and 'annotations' and 'categories' is missing \(it is empty\)",
        ),
        (lambda c: c.update(images=[]), "has an empty list of images"),
        (lambda c: c.update(categories=[], annotations=[]), "has an empty list of categories"),
        (lambda c: c["images"].append(3), "'images' holds 3; expected objects"),
        (lambda c: c["annotations"].append(None), "'annotations' holds None; expected objects"),
        (image(id=12), r"has the image id 12 more than once \(1 such ids\)"),
        (annotation(id=3), "has the annotation id 3 more than once"),
        (lambda c: c["categories"][0].update(id=2), "has the category id 2 more than once"),
        (annotation(image_id=99), r"annotation 5 belongs to image 99, which the file does not list \(1 such"),
        (annotation(category_id=99), "annotation 5 belongs to category 99, which the file does not list"),
        (without("annotations", "bbox"), "annotation 5 has no 'bbox'; it has .*'image_id'"),
        (without("annotations", "id"), "an annotation has no 'id'"),
        (without("annotations", "image_id"), "annotation 5 has no 'image_id'"),
        (without("annotations", "category_id"), "annotation 5 has no 'category_id'"),
        (annotation(bbox=[1, 2, 3]), r"annotation 5 has bbox \[1, 2, 3\]; expected \[x, y, width, height\]"),
        (annotation(bbox=None), "annotation 5 has bbox None"),
        (annotation(bbox={"x": 1, "y": 2, "w": 3, "h": 4}), "annotation 5 has bbox {'x': 1"),
        (annotation(bbox=[1, 2, 3, "4"]), "bbox of annotation 5 holds '4'; expected numbers"),
        (annotation(area="big"), "area of annotation 5 holds 'big'"),
        (annotation(iscrowd="no"), "iscrowd of annotation 5 is 'no'; expected an integer"),
        (annotation(image_id="12"), "image_id of annotation 5 is '12'; expected an integer"),
        (
            annotation(id=2**63),
            "the id of an annotation is 9223372036854775808; expected an integer of at most 64",
        ),
        (annotation(id=1.5), "the id of an annotation is 1.5"),
        (image(id="a"), "the id of an image is 'a'"),
        (without("images", "width"), "image 30 has no 'width'"),
        (image(height=0), "image 30 has height 0; expected the photo's size"),
        (without("images", "file_name"), "image 30 has neither 'file_name' nor 'coco_url'"),
        (image(file_name="../c.jpg"), r"the file name '\.\./c\.jpg' of image 30 leaves the images folder"),
        (image(file_name="a/../../c.jpg"), "leaves the images folder"),
        (image(file_name="a\\..\\c.jpg"), "leaves the images folder"),
        (image(file_name="/etc/c.jpg"), "leaves the images folder"),
        (image(file_name="\\\\host\\c.jpg"), "leaves the images folder"),
        (image(file_name="C:\\c.jpg"), "leaves the images folder"),
        (image(file_name="c\0.jpg"), "leaves the images folder"),
        (image(file_name=""), "leaves the images folder"),
        (image(file_name="sub/"), "names no file"),
        (image(file_name="sub/."), "names no file"),
        (image(file_name="\ud800.jpg"), "is not valid text"),
        (
            image(neg_category_ids=[77]),
            "neg_category_ids of image 30 has category 77, which the file does not list",
        ),
        (image(neg_category_ids=7), "neg_category_ids of image 30 is no list"),
        (image(not_exhaustive_category_ids=["a"]), "an entry of not_exhaustive_category_ids is 'a'"),
        (without("categories", "name"), "category 9 has no 'name'"),
        (lambda c: c["categories"][0].update(name=" "), "category 9 has the name ' '; expected text"),
        (lambda c: c["categories"][0].update(name="\ud800"), "category 9 has the name"),
        (lambda c: c["categories"][0].update(synonyms="cat"), "the synonyms of category 9 are no list"),
        (lambda c: c["categories"][0].update(frequency="x"), "category 9 has frequency 'x'; expected"),
        (lambda c: c["categories"][0].update(image_count="x"), "image_count of 'cat' is 'x'"),
    ],
)
def test_a_wrong_annotation_file_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    coco = small_coco()
    change(coco)
    path, images = write_coco(tmp_path, json.dumps(coco))
    (images / "b.jpg").touch()
    with pytest.raises(UserError, match=message) as caught:
        build_index(path, images, tmp_path / "out", "all-base")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists(), "a refused build leaves nothing behind"


def test_boxes_outside_or_without_area_are_counted_and_not_refused(tmp_path: Path) -> None:
    coco = small_coco()
    boxes = [[-5, -5, 10, 10], [55, 45, 10, 10], [70, 5, 3, 3], [-9, 0, 9, 9], [1, 1, -4, 4], [1, 1, 0, 4]]
    coco["annotations"] = [
        {"id": k, "image_id": 12, "category_id": 2, "bbox": box} for k, box in enumerate(boxes)
    ]
    path = tmp_path / "annotations.json"
    path, images = write_coco(tmp_path, coco)
    report = build_index(path, images, tmp_path / "out", "all-base")
    assert (report.boxes, report.clipped) == (2, 2)
    assert report.dropped == {"not_finite": 0, "no_area": 2, "outside_image": 2, "novel": 0, "other": 0}
    assert open_index(tmp_path / "out").box_xyxy.tolist() == [[0, 0, 5, 5], [55, 45, 60, 50]]
    assert "2 dropped: outside their photo" in report.lines()
    assert "2 clipped to their photo" in report.lines()


def test_wrong_options_are_refused_before_the_file_is_read(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, "{ broken")
    with pytest.raises(UserError, match="keep is 'novel': expected 'all' or 'base'"):
        build_index(path, images, tmp_path / "out", "all-base", keep="novel")
    with pytest.raises(UserError, match=r"nothing\.json does not exist"):
        build_index(tmp_path / "nothing.json", images, tmp_path / "out", "all-base")
    with pytest.raises(UserError, match="photoz is not a folder"):
        build_index(path, tmp_path / "photoz", tmp_path / "out", "all-base")
    with pytest.raises(UserError, match="is neither a file nor one of"):
        build_index(path, images, tmp_path / "out", "nothing")
    with pytest.raises(UserError, match=r"annotations\.json is a file: give a folder"):
        build_index(path, images, path, "all-base")
    with pytest.raises(UserError, match="not valid JSON at line 1, column 3"):
        build_index(path, images, tmp_path / "out", "all-base")


def test_a_folder_without_any_of_the_photos_is_refused(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco(), photos=False)
    with pytest.raises(UserError, match=r"photos holds none of the 3 photos of .*the first is 'c\.jpg'"):
        build_index(path, images, tmp_path / "out", "all-base")
    (images / "b.jpg").touch()
    report = build_index(path, images, tmp_path / "out", "all-base")
    assert report.photos_missing == 2
    assert any("2 photos are not on disk, the first is c.jpg" in line for line in report.lines())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        build_index(path, images, tmp_path / "locked/out", "all-base")


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    path, images = write_coco(tmp_path, small_coco())
    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(UserError, match=r"index cannot be written \(No space left on device\): free space"):
        build_index(path, images, tmp_path / "out", "all-base")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_as_annotation_file_is_refused_without_waiting(tmp_path: Path) -> None:
    _, images = write_coco(tmp_path, small_coco())
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"pipe\.json is a pipe or device: save the annotations to a file"):
        build_index(tmp_path / "pipe.json", images, tmp_path / "out", "all-base")
