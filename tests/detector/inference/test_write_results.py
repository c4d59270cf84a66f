"""Predictions in the formats of `cckt predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.write_results import FORMATS, write_results

CONCEPTS = Vocabulary.free("cup, cat")


def predictions() -> list[Prediction]:
    boxes = np.array([[1, 2, 11, 22]], np.float32)
    one = Prediction(boxes, np.array([0.5], np.float32), np.array([1]), CONCEPTS, (40, 30), "a/0.png")
    return [one, replace(one, source="a/1.png"), Prediction.empty(CONCEPTS, (0, 0), "a/2.png", "broken")]


@pytest.mark.parametrize(
    ("format", "result", "files"),
    [
        ("coco", "predictions.json", {"predictions.json"}),
        ("csv", "predictions.csv", {"predictions.csv"}),
        ("yolo", "data.yaml", {"labels/0.txt", "labels/1.txt", "classes.txt", "data.yaml"}),
        ("voc", "Annotations", {"Annotations/0.xml", "Annotations/1.xml"}),
    ],
)
def test_each_format_has_its_files(tmp_path: Path, format: str, result: str, files: set[str]) -> None:
    assert format in FORMATS
    assert write_results(predictions(), tmp_path, format) == tmp_path / result
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")} == files


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format kitti is not known; expected one of coco, yolo, voc, csv"):
        write_results(predictions(), tmp_path, "kitti")
    assert not list(tmp_path.iterdir())


def test_names_that_begin_like_formulas_are_text_in_spreadsheets(tmp_path: Path) -> None:
    concepts = Vocabulary.free(["=1+1", "@x", "-y", "+z", "cup=1"])
    boxes, rows = np.zeros((5, 4), np.float32), np.arange(5)
    one = Prediction(boxes, np.ones(5, np.float32), rows, concepts, (8, 8), "=cmd.png")
    lines = write_results([one], tmp_path, "csv").read_text().splitlines()[1:]
    assert [line.split(",")[:2] for line in lines] == [
        ["'=cmd.png", name] for name in ("'=1+1", "'@x", "'-y", "'+z", "cup=1")
    ]
