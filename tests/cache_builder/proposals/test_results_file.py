"""Boxes of COCO results files, and everything that can be wrong with such a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index import open_index
from cckt.cache_builder.proposals.results_file import read_boxes
from tests.cache_builder.samples import write_photos


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory):
    return open_index(write_photos(tmp_path_factory.mktemp("set") / "data", photos=3, boxes=1))


def record(image: object = 0, bbox: object = (1.5, 2.5, 30, 20), score: object = 0.5, **more: object) -> dict:
    return {"image_id": image, "bbox": bbox, "score": score, **more}


def write(folder: Path, records: object) -> Path:
    path = folder / "found.json"
    path.write_text(records if isinstance(records, str) else json.dumps(records))
    return path


def test_boxes_are_in_order_of_images_and_of_the_file(index, tmp_path: Path) -> None:
    records = [record(2, score=0.1), record(0, score=0.2, category_id=3), record(2, [0, 0, 9, 9], 0.9)]
    found = read_boxes(write(tmp_path, records), index, Silent())
    assert found.offsets.tolist() == [0, 1, 1, 3]
    boxes, scores = found.of_image(2)
    np.testing.assert_array_equal(boxes, [[1.5, 2.5, 31.5, 22.5], [0, 0, 9, 9]])
    assert scores.tolist() == [0.1, 0.9]
    assert len(found.of_image(1)[0]) == 0
    assert found.digest.startswith("sha256:")


def test_a_data_set_with_scores_is_read_too(index, tmp_path: Path) -> None:
    """`cckt predict --data` writes one."""
    images = [{"id": row, "file_name": "elsewhere/" + Path(index.file_name(row)).name} for row in range(3)]
    found = read_boxes(write(tmp_path, {"images": images, "annotations": [record(1)]}), index, Silent())
    assert found.offsets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "the list is empty, expected detections"),
        ("{}", "holds no list of detections"),
        ("3", "holds no list of detections"),
        ('{"images": []}', "holds no list of detections"),
        ({"annotations": []}, "the list is empty"),
        (
            {"annotations": [record(), {"image_id": 0, "bbox": [0, 0, 9, 9]}]},
            "entry 1 is an annotation without",
        ),
        (
            {"images": [{"id": 1, "file_name": "b.jpg"}], "annotations": [record()]},
            "image 1 is 'b.jpg', expected",
        ),
        ("[{", "is not valid JSON where the file ends"),
        (
            [record(), {"image_id": 0, "score": 1}],
            r"entry 1 is \{'image_id': 0, 'score': 1\}, expected image_id",
        ),
        ([record(1.5)], "entry 0 is"),
        ([record(True)], "entry 0 is"),
        ([record("0")], "entry 0 is"),
        ([record(2**70)], "entry 0 is"),
        ([record(bbox=[1, 2, 3])], "entry 0 is"),
        ([record(bbox=[1, 2, 3, "4"])], "entry 0 is"),
        ([record(bbox=[1, 2, float("nan"), 4])], "entry 0 is"),
        ([record(score=float("inf"))], "entry 0 is"),
        ([3], "entry 0 is 3"),
        ([record(), record(99), record(98)], r"2 image ids are not in .* \(the first is 98\)"),
        ([record(bbox=[5, 5, -1, 5])], r"the box of entry 0 is \[5.0, 5.0, -1.0, 5.0\] \(1 such box\)"),
        ([record(bbox=[50, 5, 90, 5])], "in an image of .* px .* expected boxes inside their image"),
        ([record(bbox=[-9, 5, 20, 20])], "expected boxes inside their image"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(index, tmp_path: Path, records, message) -> None:
    with pytest.raises(UserError, match=message):
        read_boxes(write(tmp_path, records), index, Silent())


def test_a_missing_file_is_refused(index, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_boxes(tmp_path / "none.json", index, Silent())


def test_a_box_may_reach_over_its_photo_by_rounding(index, tmp_path: Path) -> None:
    width = int(index.widths[0])
    found = read_boxes(write(tmp_path, [record(bbox=[width - 30, -1, 31, 20])]), index, Silent())
    assert found.box_xyxy[0].tolist() == [width - 30, -1, width + 1, 19]
