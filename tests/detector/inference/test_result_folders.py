"""Results of somebody else, or of another run, are refused by name before the work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.result_folders import require_own_evaluation, require_own_predictions
from cckt.detector.inference.write_results import write_results

FILES = {
    "coco": "predictions.json",
    "csv": "predictions.csv",
    "yolo": "labels/a.txt",
    "voc": "Annotations/a.xml",
}


@pytest.mark.parametrize("format", FILES)
def test_predictions_of_ours_are_replaced_and_other_files_refused(tmp_path: Path, format: str) -> None:
    boxes = np.array([[0, 0, 4, 4]], np.float32)
    one = Prediction(
        boxes, np.ones(1, np.float32), np.zeros(1, np.int64), Vocabulary.free("cup"), (8, 8), "a.png"
    )
    require_own_predictions(tmp_path / "new", format)
    write_results([one], tmp_path / "ours", format)
    require_own_predictions(tmp_path / "ours", format)
    path = tmp_path / "theirs" / FILES[format]
    path.parent.mkdir(parents=True)
    path.write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match=f"{path.name} that is not a result of cckt predict"):
        require_own_predictions(tmp_path / "theirs", format)


def test_a_list_of_classes_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cup\n")
    with pytest.raises(UserError, match=r"classes\.txt that is not"):
        require_own_predictions(tmp_path, "yolo")


def test_an_evaluation_of_another_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    require_own_evaluation(out, tmp_path / "one")
    out.mkdir()
    (out / "detections.json").write_text("[1]")
    with pytest.raises(UserError, match=r"detections\.json that is not an evaluation of"):
        require_own_evaluation(out, tmp_path / "one")
    (out / "metrics.json").write_text(json.dumps({"figures": {"run": str(tmp_path / "one")}}))
    require_own_evaluation(out, tmp_path / "one")
    with pytest.raises(UserError, match=r"metrics\.json that is not an evaluation of .*/two"):
        require_own_evaluation(out, tmp_path / "two")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a part of this path is a file"):
        require_own_predictions(tmp_path / "file" / "out", "coco")
