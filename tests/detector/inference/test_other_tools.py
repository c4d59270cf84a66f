"""Our files in other tools: each reads the boxes and names that we wrote (docs/data_formats.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.write_results import write_results

WORDS = Vocabulary.free("umbrella, cup|mug, traffic light")
BOXES = {
    "one.png": [(0, [3.0, 4.0, 20.0, 24.0]), (2, [30.0, 2.0, 44.0, 31.0])],
    "two.png": [(1, [0.0, 0.0, 50.0, 40.0])],
    "three.png": [],
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in BOXES:
        Image.new("RGB", (50, 40), (90, 120, 200)).save(folder / name)
    return folder


def predictions(photos: Path) -> list[Prediction]:
    found = []
    for name, rows in BOXES.items():
        boxes = np.array([box for _, box in rows], np.float32).reshape(-1, 4)
        concepts = np.array([row for row, _ in rows], np.int64)
        scores = np.linspace(0.9, 0.7, len(rows), dtype=np.float32)
        found.append(Prediction(boxes, scores, concepts, WORDS, (50, 40), str(photos / name)))
    return found


def expected(name: str) -> list[tuple[str, list[float]]]:
    return sorted((WORDS[row].name, box) for row, box in BOXES[name])


def from_supervision(dataset) -> dict[str, list[tuple[str, list[float]]]]:
    return {
        Path(path).name: sorted(
            (dataset.classes[row], box.tolist()) for row, box in zip(found.class_id, found.xyxy, strict=True)
        )
        for path, _, found in dataset
    }


def require_same(found: dict[str, list[tuple[str, list[float]]]], atol: float = 1e-3) -> None:
    assert sorted(found) == sorted(BOXES)
    for name, rows in found.items():
        assert [word for word, _ in rows] == [word for word, _ in expected(name)]
        for (_, box), (_, other) in zip(rows, expected(name), strict=True):
            np.testing.assert_allclose(box, other, atol=atol)


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_supervision_reads_every_format(photos: Path, tmp_path: Path, format: str) -> None:
    supervision = pytest.importorskip("supervision")
    out = tmp_path / "out"
    written = write_results(predictions(photos), out, format)
    read = supervision.DetectionDataset
    if format == "coco":
        dataset = read.from_coco(str(photos), str(written))
    elif format == "yolo":
        dataset = read.from_yolo(str(out / "images"), str(out / "labels"), str(out / "data.yaml"))
    else:
        dataset = read.from_pascal_voc(str(photos), str(out / "Annotations"))
    require_same(from_supervision(dataset), atol=1.0 if format == "voc" else 1e-3)


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_datumaro_the_library_of_cvat_reads_it(photos: Path, tmp_path: Path, format: str) -> None:
    datumaro = pytest.importorskip("datumaro")
    out = tmp_path / "out"
    written = write_results(predictions(photos), out, format)
    if format == "coco":
        shutil.copytree(photos, out / "images" / "default")
        (out / "annotations").mkdir()
        shutil.copy(written, out / "annotations" / "instances_default.json")
    dataset = datumaro.Dataset.import_from(str(out), format)
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    found = {}
    for item in dataset:
        boxes = [one for one in item.annotations if one.type is datumaro.AnnotationType.bbox]
        rows = [(names[one.label], [one.x, one.y, one.x + one.w, one.y + one.h]) for one in boxes]
        found[f"{Path(item.id).name}.png"] = sorted(rows)
    require_same(found, atol=0.02)


def test_label_studio_converts_it_to_predictions(photos: Path, tmp_path: Path) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter.imports.coco")
    written = write_results(predictions(photos), tmp_path / "out", "coco")
    tasks = tmp_path / "tasks.json"
    converter.convert_coco_to_ls(str(written), str(tasks), out_type="predictions")
    found = {}
    for task in json.loads(tasks.read_text()):
        rows = []
        for one in task["predictions"][0]["result"]:
            value = one["value"]
            left, top = value["x"] * 0.5, value["y"] * 0.4  # percent of 50 x 40 px
            box = [left, top, left + value["width"] * 0.5, top + value["height"] * 0.4]
            rows.append((value["rectanglelabels"][0], box))
        found[task["data"]["image"].rpartition("/")[2].rpartition("=")[2]] = sorted(rows)
    require_same(found)


def test_fiftyone_reads_coco(photos: Path, tmp_path: Path) -> None:
    fiftyone = pytest.importorskip("fiftyone")
    written = write_results(predictions(photos), tmp_path / "out", "coco")
    kind = fiftyone.types.COCODetectionDataset
    dataset = fiftyone.Dataset.from_dir(dataset_type=kind, data_path=str(photos), labels_path=str(written))
    (field,) = dataset.get_field_schema(
        embedded_doc_type=fiftyone.Detections
    )  # its name depends on the version
    found, scores = {}, []
    for sample in dataset:
        rows = []
        for one in sample[field].detections if sample[field] else []:
            scores.append(one.confidence)
            x, y, width, height = one.bounding_box
            rows.append((one.label, [50 * x, 40 * y, 50 * (x + width), 40 * (y + height)]))
        found[Path(sample.filepath).name] = sorted(rows)
    require_same(found)
    assert sorted(scores) == pytest.approx([0.7, 0.9, 0.9])
