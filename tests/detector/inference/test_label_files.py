"""Predictions as COCO, YOLO, VOC and CSV files, read back by `cckt data index`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index.formats.repairs import Repairs
from cckt.cache_builder.index.formats.voc import read_voc
from cckt.cache_builder.index.formats.yolo import read_yolo
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.label_files import (
    write_coco,
    write_coco_results,
    write_csv,
    write_voc,
    write_yolo,
)
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.write_results import write_results

WORDS = Vocabulary.free("cat, big dog")


def prediction(*rows: Any, source: str = "a/b.jpg") -> Prediction:
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[4] for row in rows], np.float32)
    return Prediction(boxes, scores, np.array([row[5] for row in rows], np.int64), WORDS, (40, 20), source)


def on_disk(folder: Path) -> list[Prediction]:
    """Write two photos, and return a prediction for each and one for a broken photo."""
    (folder / "photos").mkdir(parents=True)
    for name in ("b", "c"):
        Image.new("RGB", (40, 20)).save(folder / "photos" / f"{name}.png")
    return [
        prediction((4, 2, 12, 12, 0.75, 1), source=f"{folder}/photos/b.png"),
        Prediction.empty(WORDS, (0, 0), f"{folder}/photos/x.png", "is broken"),
        prediction((0, 0, 40, 20, 0.5, 0), source=f"{folder}/photos/c.png"),
    ]


def test_files_of_zero_predictions(tmp_path: Path) -> None:
    whole = json.loads(write_coco([], tmp_path / "c.json").read_text())
    assert whole["images"] == whole["annotations"] == whole["categories"] == []
    assert write_coco_results([], tmp_path / "r.json").read_text() == "[]"
    assert len(write_csv([], tmp_path / "c.csv").read_text().splitlines()) == 1
    assert [path.name for path in write_yolo([], tmp_path / "labels")] == ["classes.txt"]
    assert write_voc([], tmp_path / "voc") == []


def test_coco_is_one_complete_data_set(tmp_path: Path) -> None:
    found = on_disk(tmp_path)
    whole = json.loads(write_coco(found, tmp_path / "c.json", [7, 8, 9]).read_text())
    assert whole["images"] == [
        {"id": 7, "file_name": "b.png", "width": 40, "height": 20},
        {"id": 9, "file_name": "c.png", "width": 40, "height": 20},
    ]
    first, second = whole["annotations"]
    assert first == {
        "id": 1,
        "image_id": 7,
        "category_id": 2,
        "bbox": [4.0, 2.0, 8.0, 10.0],
        "score": 0.75,
        "area": 80.0,
        "iscrowd": 0,
        "segmentation": [],
    }
    assert (second["id"], second["image_id"]) == (2, 9)
    assert [(one["id"], one["name"]) for one in whole["categories"]] == [(1, "cat"), (2, "big dog")]
    assert whole["info"]["images"] == str(tmp_path / "photos")


def test_names_of_a_data_set_are_found_in_the_folder_that_the_file_names(tmp_path: Path) -> None:
    found = on_disk(tmp_path)
    names = ["photos/" + Path(one.source).name for one in found]
    whole = json.loads(write_coco(found, tmp_path / "c.json", names=names).read_text())
    folder = Path(whole["info"]["images"])
    assert folder == tmp_path
    assert all((folder / one["file_name"]).parent == tmp_path / "photos" for one in whole["images"])
    other = ["elsewhere/" + Path(one.source).name for one in found]  # no folder has photos of these names
    whole = json.loads(write_coco(found, tmp_path / "c.json", names=other).read_text())
    assert [one["file_name"] for one in whole["images"]] == ["b.png", "c.png"]


def test_coco_results_are_a_list(tmp_path: Path) -> None:
    (record,) = json.loads(
        write_coco_results([prediction((4, 2, 12, 12, 0.75, 1))], tmp_path / "r.json", [7]).read_text()
    )
    assert record == {"image_id": 7, "category_id": 2, "bbox": [4.0, 2.0, 8.0, 10.0], "score": 0.75}


def test_yolo_has_five_columns_and_scores_on_request(tmp_path: Path) -> None:
    found = [prediction((4, 2, 12, 12, 0.75, 1)), prediction(source="c.jpg")]
    first, second, classes = write_yolo(found, tmp_path / "yolo")
    assert first.read_text() == "1 0.200000 0.350000 0.200000 0.500000\n"
    assert (second.name, second.read_text()) == ("c.txt", "")
    assert classes.read_text() == "cat\nbig dog\n"
    first, *_ = write_yolo(found, tmp_path / "yolo", scores=True)
    assert first.read_text() == "1 0.200000 0.350000 0.200000 0.500000 0.750000\n"


def test_a_yolo_folder_is_read_back(tmp_path: Path) -> None:
    path = write_results(on_disk(tmp_path), tmp_path / "out", "yolo")
    assert path == tmp_path / "out" / "data.yaml"
    known = read_yolo(path, Silent(), Repairs(False))
    assert known.file_names == ["images/b.png", "images/c.png"]
    np.testing.assert_allclose(known.boxes["xywh"], [[4, 2, 8, 10], [0, 0, 40, 20]], atol=1e-4)
    assert [one.name for one in known.concepts] == ["cat", "big dog"]
    other = on_disk(tmp_path / "second")
    write_results(other, tmp_path / "out", "yolo")  # copies of the same photos
    Image.new("RGB", (40, 20), "red").save(tmp_path / "second/photos/b.png")
    with pytest.raises(UserError, match=r"images/b\.png is another photo than"):
        write_results(other, tmp_path / "out", "yolo")


def test_a_voc_folder_is_read_back(tmp_path: Path) -> None:
    folder = write_results(on_disk(tmp_path), tmp_path / "out", "voc")
    text = (folder / "b.xml").read_text()
    assert "<score>0.750000</score>" in text
    assert "<xmin>5</xmin>" in text
    (tmp_path / "out" / "JPEGImages").symlink_to(tmp_path / "photos")
    known = read_voc(tmp_path / "out", Silent(), Repairs(False))
    np.testing.assert_allclose(known.boxes["xywh"], [[4, 2, 8, 10], [0, 0, 40, 20]])


def test_a_csv_line_holds_concept_score_and_box(tmp_path: Path) -> None:
    (line,) = csv.DictReader(write_csv([prediction((4, 2, 12, 12, 0.75, 1))], tmp_path / "c.csv").open())
    assert (line["concept"], line["novel"], line["right"]) == ("big dog", "1", "12.00")


@pytest.mark.parametrize("write", [write_yolo, write_voc])
def test_two_photos_of_one_name_are_refused(tmp_path: Path, write: Any) -> None:
    with pytest.raises(UserError, match="found 'b' more than once"):
        write([prediction(), prediction(source="other/b.png")], tmp_path)
    with pytest.raises(UserError, match="without a name"):
        write([prediction(source="")], tmp_path)
