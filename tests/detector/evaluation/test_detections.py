"""Detections as columns, and COCO results files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.detector.evaluation.detections import Detections


def test_zero_detections_survive_a_file(tmp_path):
    path = Detections.empty().to_json(tmp_path / "new" / "none.json")
    assert json.loads(path.read_text()) == []
    assert len(Detections.from_json(path)) == 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 20))
def test_a_file_preserves_every_bit(tmp_path_factory, seed, count):
    rng = np.random.default_rng(seed)
    before = Detections(
        rng.integers(2**40, size=count),
        rng.integers(1, 90, count),
        rng.random(count),
        rng.random((count, 4)) * 500,
    )
    after = Detections.from_json(before.to_json(tmp_path_factory.mktemp("d") / "d.json"))
    for name in ("image_ids", "category_ids", "scores", "boxes_xywh"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_other_keys_are_ignored_and_duplicates_kept(tmp_path):
    record = {
        "image_id": 1,
        "category_id": 2,
        "bbox": [0, 0, 3, 4],
        "score": 0.5,
        "segmentation": {},
        "id": 9,
    }
    (tmp_path / "d.json").write_text(json.dumps([record, record]))
    found = Detections.from_json(tmp_path / "d.json")
    assert found.boxes_xywh.tolist() == [[0, 0, 3, 4]] * 2


GOOD = {"image_id": 1, "category_id": 2, "bbox": [0, 0, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"images": []}', "holds a dict, expected a list of detections"),
        ("[3]", "entry 0 lacks image_id, category_id, bbox, score"),
        (json.dumps([GOOD, {"image_id": 1}]), "entry 1 lacks category_id, bbox, score"),
        (json.dumps([GOOD | {"image_id": 1.5}]), "1.5 is not an id"),
        (json.dumps([GOOD | {"category_id": True}]), "True is not an id"),
        (json.dumps([GOOD | {"image_id": None}]), "malformed"),
        (json.dumps([GOOD | {"score": "high"}]), "malformed"),
        (json.dumps([GOOD | {"bbox": [1, 2, 3]}]), "malformed"),
        (json.dumps([GOOD | {"bbox": [1, 2, 3, 4, 5]}, GOOD | {"bbox": [1, 2, 3]}]), "malformed"),
        (json.dumps([GOOD | {"bbox": [1, 2, 3, None]}]), "box"),
        (json.dumps([GOOD | {"bbox": [5, 5, -2, 3]}]), r"has the box \[5.0, 5.0, -2.0, 3.0\]"),
        ('[{"image_id": 1, "category_id": 2, "bbox": [0, 0, 3, 4], "score": NaN}]', "has the score nan"),
        ('[{"image_id": 1, "category_id": 2, "bbox": [0, 0, Infinity, 4], "score": 1}]', "has the box"),
    ],
)
def test_a_malformed_results_file_is_refused(tmp_path, content, message):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        Detections.from_json(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json cannot be read"):
        Detections.from_json(tmp_path / "nothing.json")
