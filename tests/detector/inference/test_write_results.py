"""Predictions in the formats of `cckt predict`."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Concept, Vocabulary
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


def test_a_name_with_control_characters_is_in_files_that_can_be_read(tmp_path: Path) -> None:
    concepts = Vocabulary([Concept(1, "a\x1b[31m\0\ufffe"), Concept(2, "b\nc"), Concept(3, "<&\"'")])
    one = Prediction(
        np.ones((3, 4), np.float32), np.ones(3, np.float32), np.arange(3), concepts, (8, 8), "0.png"
    )
    write_results([one], tmp_path, "voc")
    root = ElementTree.parse(tmp_path / "Annotations/0.xml").getroot()
    assert [item.findtext("name") for item in root.iter("object")] == [
        r"a\x1b[31m\x00\ufffe", "b\nc", "<&\"'"
    ]  # fmt: skip
    write_results([one], tmp_path, "yolo")
    assert len((tmp_path / "classes.txt").read_text().splitlines()) == 3
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"][1] == "b\nc"


def test_photos_of_another_disk_are_copied_and_the_same_command_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "a").mkdir()
    photo = tmp_path / "a/0.png"
    photo.write_bytes(b"pixels")
    one = replace(predictions()[0], source=str(photo))
    monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        write_results([one], tmp_path / "out", "yolo")
        assert (tmp_path / "out/images/0.png").read_bytes() == b"pixels"
    (tmp_path / "out/images/0.png").write_bytes(b"precious")
    with pytest.raises(UserError, match="is another photo than"):
        write_results([one], tmp_path / "out", "yolo")
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["0.png"]
