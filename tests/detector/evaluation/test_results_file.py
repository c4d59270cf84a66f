"""Results files of another vocabulary, other images or another box format are refused with one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.evaluation.compare_runs import compare_runs
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.evaluation.results_file import read_results
from cckt.detector.inference.label_files import write_coco, write_coco_results
from cckt.detector.inference.prediction import Prediction
from tests.detector.evaluation.evaluation_world import make_data


class Notes(Silent):
    """A progress that keeps its notes."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def index(tmp_path):
    return make_data(tmp_path / "world", photos=4)


@pytest.fixture
def wide(tmp_path):
    """An index with enough boxes to judge their format."""
    return make_data(tmp_path / "wide", photos=24)


def predicted(folder, words, index, names=("0.png", "1.png", "2.png", "3.png"), earlier=False):
    """Write predictions of `words` as `cckt predict` does, but with the image ids of the index."""
    found = [
        Prediction(
            np.array([[0, 5, 8, 17]], np.float32),
            np.array([0.9], np.float32),
            np.array([0]),
            Vocabulary.free(words),
            (40, 32),
            f"somewhere/{name}",
        )
        for name in names
    ]
    path = write_coco(found, folder / "predictions.json", index.image_ids.tolist())
    if earlier:  # the two files of versions before 0.3
        known = json.loads(path.read_text())
        (folder / "images.json").write_text(json.dumps({k: known[k] for k in ("images", "categories")}))
        write_coco_results(found, path, index.image_ids.tolist())
    return path


def everything(index):
    """Return the annotated boxes as detections."""
    truth = ground_truth_of(index)
    ids, categories = truth.image_ids[truth.images], truth.category_ids[truth.concepts]
    return Detections(ids, categories, np.linspace(0.9, 0.5, len(ids)), truth.boxes_xywh, "found.json")


def test_zero_detections_are_read(index, tmp_path):
    assert len(read_results(Detections.empty().to_json(tmp_path / "none.json"), index)) == 0


def test_predictions_of_the_words_of_the_index_are_scored(index, tmp_path):
    path = predicted(tmp_path / "a", "cat, dog, Kite", index)
    metrics = evaluate_detections(index, read_results(path, index))
    assert metrics.detections == 4
    assert metrics.per_concept[0].ap50 > 0.3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("dog, cat, kite", r"json: category 1 is 'dog', expected 'cat' of .*, or score the run with"),
        ("cat, dog, zebra", r"category 3 is 'zebra', expected 'kite' of "),
        ("cat, dog, kite, boat, tree", r"category 5 is 'tree', expected one of the 4 category ids of "),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_predictions_of_other_words_or_another_order_are_refused(index, tmp_path, words, message, earlier):
    path = predicted(tmp_path / "a", words, index, earlier=earlier)
    with pytest.raises(UserError, match=message) as raised:
        read_results(path, index)
    assert f"cckt eval RUN --data {index.folder}." in str(raised.value)
    with pytest.raises(UserError, match=message):
        compare_runs(path, path, index.folder, resamples=2)


def test_predictions_of_other_images_are_refused(index, tmp_path):
    names = ("0.png", "2.png", "1.png", "3.png")
    path = predicted(tmp_path / "a", "cat, dog, kite", index, names)
    with pytest.raises(UserError, match=r"image 11 is '2\.png', expected '1\.png' of"):
        read_results(path, index)


def test_detections_of_an_evaluation_are_not_compared_with_images_of_predict_in_the_same_folder(
    index, tmp_path
):
    predicted(tmp_path / "a", "dog, cat", index)
    path = everything(index).to_json(tmp_path / "a" / "detections.json")
    (tmp_path / "a" / "metrics.json").write_text("{}")
    assert len(read_results(path, index)) == len(everything(index))


@pytest.mark.parametrize("content", ["no json", "[]", '{"images": [], "annotations": []}', "{}"])
def test_an_images_file_of_another_program_is_ignored(index, tmp_path, content):
    (tmp_path / "images.json").write_text(content)
    assert len(read_results(everything(index).to_json(tmp_path / "d.json"), index))


def test_detections_made_on_another_index_are_noted(index, tmp_path):
    path = everything(index).to_json(tmp_path / "e" / "detections.json")
    figures = {"index_digest": "sha256:other", "data": "elsewhere"}
    (tmp_path / "e" / "metrics.json").write_text(json.dumps({"figures": figures}))
    progress = Notes()
    read_results(path, index, progress=progress)
    (note,) = progress.notes
    assert "these detections were made on elsewhere (sha256:other), and are scored on" in note


def test_corner_boxes_are_refused(wide):
    found = everything(wide)
    evaluate_detections(wide, found)
    corners = np.concatenate([found.boxes_xywh[:, :2], found.boxes_xywh[:, :2] + found.boxes_xywh[:, 2:]], 1)
    wrong = Detections(found.image_ids, found.category_ids, found.scores, corners, "found.json")
    message = (
        r"found\.json: \d+ of 66 boxes leave their photo, such as \[.*\] of image \d+ \(40 x 32 px\), "
        r"expected \[left, top, width, height\]; they look like corners"
    )
    with pytest.raises(UserError, match=message):
        evaluate_detections(wide, wrong)


def test_boxes_in_pixels_of_a_resized_image_are_refused(wide):
    found = everything(wide)
    wrong = Detections(found.image_ids, found.category_ids, found.scores, found.boxes_xywh * 8, "found.json")
    with pytest.raises(UserError, match=r"boxes leave their photo.*convert them to pixels of the original"):
        evaluate_detections(wide, wrong)


def test_a_few_unclipped_boxes_are_scored(wide):
    found = everything(wide)
    boxes = found.boxes_xywh.copy()
    boxes[::4, 2:] += 50
    boxes[:, :2] -= 2
    unclipped = Detections(found.image_ids, found.category_ids, found.scores, boxes)
    assert evaluate_detections(wide, unclipped).detections == len(found)
