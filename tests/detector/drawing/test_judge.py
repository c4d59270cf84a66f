"""Right, wrong and missed: marks of detections next to the annotations."""

from __future__ import annotations

import numpy as np

from cckt.detector.drawing.judge import judged_marks
from cckt.detector.inference.prediction import Prediction
from tests.detector.evaluation.evaluation_world import make_data


def prediction(index, rows):
    boxes = np.array([box for _, _, box in rows], np.float32).reshape(-1, 4)
    scores, concepts = ([row[at] for row in rows] for at in (1, 0))
    return Prediction(boxes, np.float32(scores), np.int64(concepts), index.concepts, (40, 32))


def test_without_detections_every_object_is_missed(tmp_path):
    index = make_data(tmp_path / "world", photos=6)
    row = len(index) - 1
    marks = judged_marks(index, row, prediction(index, []))
    whole = ~index.iscrowd[index.boxes_of(row)]
    assert [mark.verdict for mark in marks] == ["missed"] * int(whole.sum())
    assert all(mark.score is None for mark in marks)


def test_each_object_is_found_once_and_the_rest_is_wrong(tmp_path):
    index = make_data(tmp_path / "world", photos=6)
    row = len(index) - 1
    whole = np.flatnonzero(~index.iscrowd[index.boxes_of(row)]) + index.boxes_of(row).start
    first = int(whole[0])
    box, concept = index.box_xyxy[first], int(index.box_concepts[first])
    other = (concept + 1) % len(index.concepts)
    found = prediction(
        index,
        [
            (concept, 0.6, box),  # a second detection of the same object, with a lower score
            (concept, 0.9, box + 0.4),
            (other, 0.8, [0, 0, 1, 1]),
        ],
    )
    marks = judged_marks(index, row, found)
    assert [mark.verdict for mark in marks[:3]] == ["wrong", "right", "wrong"]
    assert [mark.verdict for mark in marks[3:]] == ["missed"] * (len(whole) - 1)
    assert [mark.name for mark in marks[:3]] == found.names
    novel = index.concepts.in_split("novel")
    assert [mark.novel for mark in marks[:3]] == novel[found.concepts].tolist()
