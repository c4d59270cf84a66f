"""Shapeworld data sets: the same bytes for the same seed, index, resuming, novel boxes left out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import novel_boxes, open_index
from cckt.shapeworld.dataset import coco_annotations, make_dataset
from cckt.shapeworld.pictographs import CONCEPTS
from cckt.shapeworld.scene import render_photo


def test_invalid_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--photos 0"):
        make_dataset(tmp_path / "w", 0, 0)
    with pytest.raises(UserError, match="--seed -1"):
        make_dataset(tmp_path / "w", 1, -1)
    assert not (tmp_path / "w").exists()


def test_annotations_of_no_images() -> None:
    empty = coco_annotations([])
    assert empty["images"] == []
    assert empty["annotations"] == []
    assert [category["name"] for category in empty["categories"]] == list(CONCEPTS)


def test_a_data_set_has_images_annotations_split_and_index(tmp_path: Path) -> None:
    out = tmp_path / "world"
    report = make_dataset(out, 12, seed=4, workers=1)
    index = open_index(out)
    assert len(index) == 12
    assert len(index.rows("base")) == 48
    assert len(index.rows("novel")) == 17
    for row in range(12):
        photo = render_photo(4, row)
        assert (np.asarray(Image.open(index.photo_path(row))) == photo.pixels).all()
        boxes = index.box_xyxy[index.boxes_of(row)]
        assert sorted(map(tuple, boxes.tolist())) == sorted(one.box_xyxy for one in photo.objects)
    assert report.lines()


def test_training_images_show_novel_objects_without_boxes(tmp_path: Path) -> None:
    every = make_dataset(tmp_path / "all", 30, seed=9, workers=1)
    make_dataset(tmp_path / "base", 30, seed=9, keep="base", workers=1)
    whole, base = open_index(tmp_path / "all"), open_index(tmp_path / "base")
    assert novel_boxes(whole) > 0
    assert novel_boxes(base) == 0
    assert len(whole.annotation_ids) - novel_boxes(whole) == len(base.annotation_ids)
    assert (tmp_path / "all/photos/00000000.png").read_bytes() == (
        tmp_path / "base/photos/00000000.png"
    ).read_bytes()
    assert every.boxes_per_split["novel"] == novel_boxes(whole)


def test_existing_images_are_kept_and_another_seed_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "world"
    make_dataset(out, 3, seed=1, workers=1)
    kept = (out / "photos/00000001.png").stat().st_mtime_ns
    make_dataset(out, 5, seed=1, workers=1)
    assert (out / "photos/00000001.png").stat().st_mtime_ns == kept
    assert len(open_index(out)) == 5
    with pytest.raises(UserError, match="found photos of seed 1, expected seed 2"):
        make_dataset(out, 5, seed=2, workers=1)


def test_a_folder_of_another_renderer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text(json.dumps({"world": "another 1", "seed": 0}))
    with pytest.raises(UserError, match="give another folder"):
        make_dataset(tmp_path, 1, seed=0, workers=1)


@pytest.mark.parametrize(
    "name", ["annotations.json", "split.json", "photos/00000000.png", "world.json", "index/index.json"]
)
def test_files_of_somebody_else_are_refused_by_name_and_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=rf"found a .*/{name.removesuffix('/00000000.png')} that is not"):
        make_dataset(tmp_path, 1, seed=0, workers=1)
    assert (tmp_path / name).read_text() == "precious"


def test_a_split_that_was_edited_is_not_written_over(tmp_path: Path) -> None:
    make_dataset(tmp_path, 1, seed=0, workers=1)
    make_dataset(tmp_path, 2, seed=0, workers=1)
    (tmp_path / "split.json").write_text('{"base": ["star"], "novel": []}')
    with pytest.raises(UserError, match=r"split\.json that is not a file made by cckt data shapeworld"):
        make_dataset(tmp_path, 2, seed=0, workers=1)


def test_a_disk_without_room_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="MB of free disk space"):
        make_dataset(tmp_path / "w", 100, seed=0, workers=1)
    assert not (tmp_path / "w").exists()
