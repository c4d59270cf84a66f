"""Indexes with pseudo boxes: what is added, what is left out, and that they are not scored on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.doctor.data import check_data
from cckt.cache_builder.index import add_boxes, open_index, pseudo_note, verify_index
from cckt.cache_builder.proposals import Provenance
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_detections, evaluate_run
from cckt.detector.evaluation.pseudo_labels import _without_overlaps, pseudo_index
from cckt.detector.runs.file_digests import recorded
from cckt.detector.runs.run_folder import Facts
from cckt.detector.training.preflight import check_pseudo, makers_of_boxes
from tests.detector.evaluation.evaluation_world import (
    add_column,
    make_data,
    make_run,
    small_config,
    unit_rows,
)


@pytest.fixture
def index(tmp_path):
    index = make_data(tmp_path / "world", photos=5)
    add_column(index, "text", unit_rows(4))
    return index


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    return make_run(tmp_path / "run", small_config(guidance=False))


def nothing():
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4))


def test_adding_no_box_still_changes_the_digest(index, tmp_path):
    digest = add_boxes(index, tmp_path / "same", *nothing(), {})
    derived = open_index(tmp_path / "same")
    assert derived.digest == digest != index.digest
    assert not derived.pseudo.any()
    assert verify_index(derived)
    np.testing.assert_array_equal(derived.box_xyxy, index.box_xyxy)


def test_added_boxes_are_marked_sorted_and_clipped_and_their_concepts_base(index, tmp_path):
    boxes = np.array([[5.0, 2, 90, 9], [1, 1, 4, 4], [50, 50, 60, 60]])  # the second photo is 40 x 32
    images, concepts = np.array([1, 0, 2]), np.array([2, 0, 0])
    add_boxes(index, tmp_path / "more", images, concepts, boxes, {"run": "r"})
    derived = open_index(tmp_path / "more")
    assert verify_index(derived)
    assert len(derived.annotation_ids) == len(index.annotation_ids) + 2  # the third is outside its image
    assert derived.pseudo.sum() == 2
    assert derived.box_xyxy[derived.pseudo].tolist() == [[1, 1, 4, 4], [5, 2, 40, 9]]
    assert (np.diff(derived.box_images) >= 0).all()
    assert derived.boxes_of(0) == slice(0, 1)
    assert [c.split for c in derived.concepts] == ["base", "base", "base", "other"]
    assert derived.card["pseudo"] == {"run": "r", "boxes": 2, "made_base": ["kite"]}
    np.testing.assert_array_equal(derived.box_xyxy[~derived.pseudo], index.box_xyxy)
    # A second derivation keeps the earlier marks.
    add_boxes(derived, tmp_path / "again", images[1:2], concepts[1:2], boxes[1:2] + 5, {"run": "s"})
    again = open_index(tmp_path / "again")
    assert again.pseudo.sum() == 3
    before = derived.card["pseudo"]
    assert again.card["pseudo"] == {"run": "s", "boxes": 3, "made_base": ["kite"], "before": before}
    expected = "3 of 13 boxes were found by the run s, not annotated; only they make 1 concept base (kite)"
    assert pseudo_note(again) == expected
    assert pseudo_note(index) == ""


def test_an_index_without_its_marks_is_damaged(index, tmp_path):
    add_boxes(index, tmp_path / "more", np.array([0]), np.array([0]), np.array([[1.0, 1, 4, 4]]), {})
    card = json.loads((tmp_path / "more" / "index" / "index.json").read_text())
    assert card["schema"] == 2  # an older cckt refuses it
    (tmp_path / "more" / "index" / card["tables"] / "box_origins.npy").unlink()
    with pytest.raises(UserError, match=r"box_origins\.npy is missing"):
        open_index(tmp_path / "more")


def test_an_index_without_pseudo_boxes_keeps_schema_1(index):
    assert index.card["schema"] == 1
    assert index.box_origins is None
    assert index.pseudo.tolist() == [False] * len(index.annotation_ids)


def test_confident_detections_become_boxes_where_there_is_none(index, run, tmp_path):
    low = pseudo_index(run, index.folder, tmp_path / "low", min_score=0.3, priors="none")
    derived = open_index(tmp_path / "low")
    assert low.digest == derived.digest
    assert low.finds == low.on_boxes + low.added
    assert low.added == derived.pseudo.sum() == sum(low.concepts.values()) > 0
    assert derived.card["pseudo"]["run"] == "run"
    assert derived.card["pseudo"]["index_digest"] == index.digest
    from cckt.detector.evaluation.match_detections import iou

    for photo in range(len(derived)):
        part = derived.boxes_of(photo)
        corners, new = derived.box_xyxy[part], derived.pseudo[part]
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        overlap = iou(xywh, xywh, np.zeros(len(xywh), bool)) - np.eye(len(xywh))
        assert overlap[new].max(initial=0) < 0.5
    assert any("boxes added" in line for line in low.lines())
    json.dumps(low.as_dict())
    high = pseudo_index(run, index.folder, tmp_path / "high", min_score=1.0, priors="none")
    assert high.added == 0
    assert "none" in high.lines()[2]


def test_pseudo_boxes_can_be_trained_on_but_not_scored_on(index, run, tmp_path):
    pseudo_index(run, index.folder, tmp_path / "low", min_score=0.3, priors="none")
    with pytest.raises(UserError, match=r"were found by the run run.* score on the data set that it was"):
        evaluate_run(run, tmp_path / "low", priors="none")
    with pytest.raises(UserError, match="boxes were found by the run run"):
        evaluate_detections(open_index(tmp_path / "low"), Detections.empty())
    (warned,) = (one for one in check_data(tmp_path / "low") if "found by the run" in one.message)
    assert warned.level == "warn"


def test_boxes_hand_on_the_makers_that_the_run_learned_from(index, run, tmp_path):
    config = replace(small_config(), recipe="coco-48-17-r50")
    pseudo_index(run, index.folder, tmp_path / "own", min_score=0.3, splits=["base"], priors="none")
    assert "makers" not in open_index(tmp_path / "own").card["pseudo"]
    check_pseudo(config, open_index(tmp_path / "own"))
    maker = Provenance("import", "b.json", "sha256:1", saw_novel="unknown")
    with recorded(run, "facts.json"):
        replace(Facts.load(run), learned_from=[maker.to_json()]).save(run)
    pseudo_index(run, index.folder, tmp_path / "first", min_score=0.3, splits=["base"], priors="none")
    add_column(open_index(tmp_path / "first"), "text", unit_rows(4))
    pseudo_index(run, tmp_path / "first", tmp_path / "second", min_score=0.2, splits=["base"], priors="none")
    derived = open_index(tmp_path / "second")
    assert makers_of_boxes(derived) == [maker]
    message = r"were found by the run run, .* this run learned from file b\.json, which may have seen novel"
    with pytest.raises(UserError, match=message):
        check_pseudo(config, derived)
    check_pseudo(replace(config, recipe="mine"), derived)


def test_only_requested_splits_are_added(index, run, tmp_path):
    report = pseudo_index(run, index.folder, tmp_path / "b", min_score=0.1, splits=["base"], priors="none")
    assert set(report.concepts) <= {"cat", "dog"}


def test_wrong_arguments_are_refused(index, run, tmp_path):
    with pytest.raises(UserError, match="is the data set itself"):
        pseudo_index(run, index.folder, index.folder)
    with pytest.raises(UserError, match="--min-score 0: expected a number above 0"):
        pseudo_index(run, index.folder, tmp_path / "x", min_score=0)
    other = make_data(tmp_path / "other", photos=3)
    with pytest.raises(UserError, match=r"other.*: holds an index that was not made from .*; name another"):
        pseudo_index(run, index.folder, other.folder)
    assert open_index(other.folder).digest == other.digest
    for score in (1.0, 0.9):  # an index made from the same one may be replaced
        pseudo_index(run, index.folder, tmp_path / "mine", min_score=score, priors="none")


def test_a_find_inside_a_crowd_of_its_concept_is_no_new_box(tmp_path: Path) -> None:
    index = make_data(tmp_path / "crowd", photos=2, crowd=True)  # a crowd of cats in photo 11
    assert index.iscrowd.tolist() == [True]
    inside = np.array([[1.0, 6, 3, 3], [1, 6, 3, 3], [20, 6, 3, 3]])
    found = Detections(np.array([11, 11, 11]), np.array([1, 2, 1]), np.array([0.9, 0.8, 0.7]), inside, "test")
    kept = _without_overlaps(index, found.where(np.array([0, 2])))
    assert kept.scores.tolist() == [0.7], "a cat among the cats may be one of them"
    assert _without_overlaps(index, found.where(np.array([1]))).category_ids.tolist() == [2], "a dog is not"
