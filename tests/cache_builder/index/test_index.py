"""The tables as built and opened, and the real photos' counts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.index import build_index, novel_boxes, open_index, verify_index
from cckt.cache_builder.index.tables import DTYPES, NAMES
from tests.cache_builder.index.coco_files import small_coco, write_coco
from tests.places import SHARED

REAL = SHARED / "coco_photos"


def test_an_index_without_boxes_opens(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, {**small_coco(), "annotations": []})
    report = build_index(path, images, tmp_path / "out", "all-base", keep="base")
    index = open_index(tmp_path / "out")
    assert report.boxes == len(index.box_xyxy) == novel_boxes(index) == 0
    assert index.box_xyxy.shape == (0, 4)
    assert index.boxes_of(2) == slice(0, 0)
    assert index.boxes_of_concept(0).shape == (0,)
    assert report.images_without_boxes == len(index) == 3
    assert verify_index(index)


def test_tables_are_sorted_and_clipped_records(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    index = open_index(tmp_path / "out")
    assert index.image_ids.tolist() == [7, 12, 30]
    assert [index.file_name(k) for k in range(3)] == ["sub/a.jpg", "b.jpg", "c.jpg"]
    assert index.photo_path(0) == images / "sub/a.jpg"
    assert (index.widths.tolist(), index.heights.tolist()) == ([100, 60, 40], [80, 50, 30])
    assert index.concepts.names == ["fire_truck", "Dog", "cat"]
    assert index.annotation_ids.tolist() == [2, 3, 1, 5]
    assert index.box_images.tolist() == [0, 0, 1, 1]
    assert index.box_concepts.tolist() == [1, 0, 0, 2]
    assert index.box_xyxy.tolist() == [[5, 6, 12, 14], [10.5, 20, 40.5, 60], [0, 0, 60, 50], [1, 2, 4, 6]]
    assert index.areas.tolist() == [56, 900, 3000, 6.5], "an area that is not given is the box's"
    assert index.iscrowd.tolist() == [False, False, False, True]
    assert [index.boxes_of(k) for k in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 4)]
    assert [index.boxes_of_concept(k).tolist() for k in range(3)] == [[1, 2], [0], [3]]
    assert index.image_row(12) == 1
    with pytest.raises(KeyError):
        index.image_row(13)
    assert index.card["source"]["file"] == "annotations.json"


def test_tables_are_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    index = open_index(tmp_path / "out")
    for name in NAMES:
        table = getattr(index, name)
        assert table.dtype == DTYPES[name]
        assert not table.flags.writeable
        assert isinstance(table, np.memmap) or table.size == 0, name
    payload = pickle.dumps(index)
    assert len(payload) < 500, "a worker gets the folder, not the tables"
    assert pickle.loads(payload).box_xyxy.tolist() == index.box_xyxy.tolist()  # noqa: S301 - our own bytes


def test_photos_inside_the_data_folder_move_with_it(tmp_path: Path) -> None:
    out = tmp_path / "data"
    path, images = write_coco(out, small_coco())
    build_index(path, images, out, "all-base")
    out.rename(tmp_path / "moved")
    index = open_index(tmp_path / "moved")
    assert index.photo_path(0) == tmp_path / "moved/photos/sub/a.jpg"
    assert index.card["image_root"] == "photos"


@pytest.mark.parametrize(
    ("part", "keep", "boxes", "crowd", "novel", "other", "splits"),
    [
        ("train", "base", 585, 9, 134, 110, {"base": 585, "novel": 0, "other": 0}),
        ("val", "all", 604, 8, 0, 0, {"base": 455, "novel": 93, "other": 56}),
    ],
)
def test_real_coco(
    tmp_path: Path,
    part: str,
    keep: str,
    boxes: int,
    crowd: int,
    novel: int,
    other: int,
    splits: dict[str, int],
) -> None:
    if not REAL.is_dir():
        pytest.skip("the shared COCO photos are absent")
    path = REAL / f"annotations/instances_{part}2017.json"
    report = build_index(path, REAL / f"{part}2017", tmp_path / "out", "coco-48-17", keep)
    index = open_index(tmp_path / "out")
    assert report.images == len(index) == {"train": 92, "val": 72}[part]
    assert (report.boxes, report.crowd) == (boxes, crowd) == (len(index.box_xyxy), int(index.iscrowd.sum()))
    assert report.dropped == {
        "not_finite": 0,
        "no_area": 0,
        "outside_image": 0,
        "novel": novel,
        "other": other,
    }
    assert report.boxes_per_split == splits
    assert report.concepts_per_split == {"base": 48, "novel": 17, "other": 15}
    assert (report.clipped, report.photos_missing) == (0, 0)
    assert novel_boxes(index) == (0 if keep == "base" else 149)
    assert all(index.photo_path(image).is_file() for image in range(len(index)))
    assert verify_index(index)
    text = "\n".join(report.lines())
    assert f"{boxes} boxes of" in text
    assert (f"{novel} dropped: novel concept" in text) == (novel > 0)
    assert json.loads(json.dumps(report.to_json()))["boxes"] == boxes
