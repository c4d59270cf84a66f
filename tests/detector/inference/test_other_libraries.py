"""Data sets of supervision and FiftyOne: theirs are read by `cckt data index`, ours are read by them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.index import Index, build_index, open_index
from cckt.cache_builder.index.formats.voc import read_voc, voc_images
from cckt.cache_builder.index.formats.yolo import read_yolo, yolo_root
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.write_results import write_results

WORDS = Vocabulary.free("cat, big dog")
BOXES = {"a.jpg": [[10.0, 20.0, 50.0, 60.0], [5.0, 5.0, 25.0, 45.0]], "b.jpg": [[0.0, 0.0, 80.0, 64.0]]}
CLASSES = {"a.jpg": [0, 1], "b.jpg": [1]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in BOXES:
        Image.new("RGB", (80, 64)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def found(photos: Path) -> list[Prediction]:
    return [
        Prediction(
            np.array(BOXES[name], np.float32),
            np.full(len(BOXES[name]), 0.75, np.float32),
            np.array(CLASSES[name]),
            WORDS,
            (80, 64),
            str(photos / name),
        )
        for name in BOXES
    ]


def assert_boxes(index: Index) -> None:
    """Assert that an index holds BOXES with the names of their classes."""
    names = [concept.name for concept in index.concepts]
    for row in range(len(index)):
        name = Path(index.file_name(row)).name
        part = index.boxes_of(row)
        boxes = index.box_xyxy[part].tolist()
        classes = [names[one] for one in index.box_concepts[part].tolist()]
        expected = [WORDS[one].name for one in CLASSES[name]]
        assert sorted(zip(classes, boxes, strict=True)) == sorted(zip(expected, BOXES[name], strict=True))
    assert len(index) == len(BOXES)


def sv_data_set(sv: Any, photos: Path) -> Any:
    annotations = {
        str(photos / name): sv.Detections(
            xyxy=np.array(BOXES[name], np.float32), class_id=np.array(CLASSES[name])
        )
        for name in BOXES
    }
    return sv.DetectionDataset(["cat", "big dog"], list(annotations), annotations)


def test_data_sets_of_supervision_are_read(photos: Path, tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    data = sv_data_set(sv, photos)
    coco = tmp_path / "coco"
    data.as_coco(str(coco / "images"), str(coco / "a.json"))
    build_index(coco / "a.json", coco / "images", tmp_path / "1", "all-base")
    assert_boxes(open_index(tmp_path / "1"))
    yolo = tmp_path / "yolo"
    data.as_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))
    card = yolo / "data.yaml"
    read = partial(read_yolo, subset="train")
    build_index(card, yolo_root(card), tmp_path / "2", "all-base", read=read)
    index = open_index(tmp_path / "2")
    np.testing.assert_allclose(index.box_xyxy[index.boxes_of(1)], BOXES["b.jpg"], atol=0.1)
    voc = tmp_path / "voc"
    data.as_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations"))
    build_index(voc, voc_images(voc), tmp_path / "3", "all-base", read=read_voc)
    assert len(open_index(tmp_path / "3").box_xyxy) == 3


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_our_predictions_are_data_sets_of_supervision(photos: Path, tmp_path: Path, format: str) -> None:
    sv = pytest.importorskip("supervision")
    out = tmp_path / "finds"
    out.mkdir()
    write_results(found(photos), out, format)
    if format == "coco":
        data = sv.DetectionDataset.from_coco(str(photos), str(out / "predictions.json"))
    elif format == "yolo":
        labels, card = str(out / "labels"), str(out / "data.yaml")
        data = sv.DetectionDataset.from_yolo(str(photos), labels, card)
    else:
        data = sv.DetectionDataset.from_pascal_voc(str(photos), str(next(out.rglob("a.xml")).parent))
    assert sorted(data.classes) == ["big dog", "cat"]
    for path, _, detections in data:
        name = Path(path).name
        named = sorted(
            (data.classes[int(number)], box)
            for number, box in zip(detections.class_id, detections.xyxy.round(1).tolist(), strict=True)
        )
        expected = [(WORDS[number].name, box) for number, box in zip(CLASSES[name], BOXES[name], strict=True)]
        np.testing.assert_allclose([box for _, box in named], [box for _, box in sorted(expected)], atol=1.1)
        assert [one for one, _ in named] == [one for one, _ in sorted(expected)]


def test_data_sets_of_fiftyone_are_read_and_ours_are_imported(photos: Path, tmp_path: Path) -> None:
    fo = pytest.importorskip("fiftyone")
    data = fo.Dataset.from_dir(
        dataset_type=fo.types.COCODetectionDataset,
        data_path=str(photos),
        labels_path=str(write_results(found(photos), tmp_path, "coco")),
    )
    (field,) = data.get_field_schema(embedded_doc_type=fo.Detections)  # its name depends on the version
    assert data.count(f"{field}.detections") == 3
    folder = tmp_path / "exported"
    data.export(str(folder), dataset_type=fo.types.COCODetectionDataset)  # as docs/data_formats.md has it
    build_index(folder / "labels.json", folder / "data", tmp_path / "4", "all-base")
    assert_boxes(open_index(tmp_path / "4"))


def test_a_coco_export_as_fiftyone_writes_it_is_read(photos: Path, tmp_path: Path) -> None:
    """The records of FiftyOne 1.x: categories from 0, `supercategory` null, no segmentation."""
    images = [
        {"id": number, "file_name": name, "height": 64, "width": 80, "license": None, "coco_url": None}
        for number, name in enumerate(BOXES, 1)
    ]
    annotations = [
        {
            "id": 0,
            "image_id": number,
            "category_id": kind,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": (box[2] - box[0]) * (box[3] - box[1]),
            "iscrowd": 0,
        }
        for number, name in enumerate(BOXES, 1)
        for box, kind in zip(BOXES[name], CLASSES[name], strict=True)
    ]
    for number, one in enumerate(annotations, 1):
        one["id"] = number
    categories = [{"id": number, "name": one.name, "supercategory": None} for number, one in enumerate(WORDS)]
    whole = {"info": {}, "licenses": [], "categories": categories}
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(whole | {"images": images, "annotations": annotations}))
    build_index(path, photos, tmp_path / "out", "all-base")
    assert_boxes(open_index(tmp_path / "out"))
