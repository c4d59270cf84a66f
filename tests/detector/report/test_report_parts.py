"""Parts of the report: kinds of errors and their cost, confusion, priors, the log, the gallery."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.detector.evaluation.bootstrap import weighted_ap
from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import best_detections, match_detections
from cckt.detector.report.confusion import confusion
from cckt.detector.report.errors import KINDS, Errors, _ap50, classify, costs
from cckt.detector.report.gallery import SHARES, choose_examples, quotas, shown_detections
from cckt.detector.report.log import MAX_POINTS, read_log
from cckt.detector.report.matrix import confusion_matrix
from tests.detector.evaluation.evaluation_world import random_found, random_truth


def world(*boxes: tuple[int, int, list[float]]) -> GroundTruth:
    """Return images of 100 x 100 with boxes (image, concept, xywh); concept 0 is novel, 1 and 2 are base."""
    empty = random_truth(np.random.default_rng(0), photos=3, concepts=3, boxes=0)
    images, concepts, xywh = zip(*boxes, strict=True) if boxes else ((), (), np.empty((0, 4)))
    table = np.array(xywh, float).reshape(-1, 4)
    return replace(
        empty,
        widths=np.full(3, 100),
        heights=np.full(3, 100),
        images=np.array(images, np.int64),
        concepts=np.array(concepts, np.int64),
        boxes_xywh=table,
        areas=table[:, 2] * table[:, 3],
        crowd=np.zeros(len(table), bool),
    )


def detections(*rows: tuple[int, int, float, list[float]]) -> LocatedDetections:
    images, concepts, scores, boxes = zip(*rows, strict=True) if rows else ((), (), (), np.empty((0, 4)))
    table = np.array(boxes, float).reshape(-1, 4)
    return LocatedDetections(
        np.array(images, np.int64), np.array(concepts, np.int64), np.array(scores, float), table
    )


def kinds_of(truth: GroundTruth, found: LocatedDetections) -> tuple[list[str], Errors]:
    """Return the kinds by falling score, and the errors."""
    matches = match_detections(truth, found)
    errors = classify(truth, matches)
    order = np.argsort(-matches.scores)
    return ["right" if errors.kind[at] < 0 else KINDS[errors.kind[at]] for at in order], errors


def test_no_boxes_and_no_detections() -> None:
    truth = world()
    assert kinds_of(truth, detections())[0] == []
    cost = costs(
        truth, match_detections(truth, detections()), classify(truth, match_detections(truth, detections()))
    )
    assert cost["novel"]["missed"] == {"count": 0, "lost": None}
    assert confusion(truth, detections(), np.eye(3)) == []
    assert choose_examples(truth, detections(), 0.5, most=5) == []


def test_every_kind_of_error_is_classified() -> None:
    here = [10.0, 10, 20, 20]
    truth = world((0, 0, here), (0, 1, [60, 60, 30, 30]), (1, 0, here))
    kinds, errors = kinds_of(
        truth,
        detections(
            (0, 0, 0.9, here),
            (0, 0, 0.8, here),  # the same box again
            (0, 0, 0.7, [60, 60, 30, 30]),  # the box of the other concept
            (0, 1, 0.6, [70, 70, 30, 30]),  # a box of its concept, IoU 0.29
            (0, 0, 0.5, [72, 72, 30, 30]),  # a box of the other concept, IoU below 0.5
            (0, 2, 0.4, [0, 80, 5, 5]),
            (2, 0, 0.3, here),  # an image without boxes
        ),
    )
    expected = ["right", "duplicate", "classification", "localisation", "both", "background", "background"]
    assert kinds == expected
    assert errors.missed.tolist() == [False, False, True]


def test_the_cost_of_each_kind() -> None:
    here, there = [10.0, 10, 20, 20], [60.0, 60, 30, 30]
    truth = world((0, 0, here), (0, 1, there))
    # A base object is detected as novel with a higher score: the correction helps both splits.
    found = detections((0, 0, 0.9, there), (0, 0, 0.5, here))
    cost = costs(truth, match_detections(truth, found), classify(truth, match_detections(truth, found)))
    assert cost["novel"]["classification"] == {"count": 1, "lost": pytest.approx(0.5)}
    assert cost["base"]["classification"] == {"count": 0, "lost": pytest.approx(1.0)}
    assert cost["base"]["missed"] == {"count": 0, "lost": 0.0}
    nothing = detections((0, 1, 0.9, there))
    cost = costs(truth, match_detections(truth, nothing), classify(truth, match_detections(truth, nothing)))
    assert cost["novel"]["missed"] == {"count": 1, "lost": 1.0}


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), federated=st.booleans())
def test_costs_are_not_negative_and_every_wrong_detection_has_a_kind(seed: int, federated: bool) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, photos=4, concepts=5, boxes=30, federated=federated)
    found = random_found(rng, truth, 120)
    matches = match_detections(truth, found)
    errors = classify(truth, matches)
    np.testing.assert_array_equal(errors.kind >= 0, matches.wrong[0])
    assert not (errors.missed & np.isin(np.arange(30), matches.box[0])).any()
    counted = ~matches.ignored[0]
    positives = np.bincount(truth.concepts[~truth.crowd], minlength=5)
    ours = _ap50(matches.concepts[counted], matches.scores[counted], matches.right[0][counted], positives)
    known = positives > 0
    np.testing.assert_allclose(ours[known], weighted_ap(truth, matches, np.ones((1, 4)))[0][known], atol=1e-9)
    cost = costs(truth, matches, errors)
    for split in ("base", "novel"):
        for kind in ("both", "duplicate", "background", "missed"):
            lost = cost[split][kind]["lost"]
            assert lost is None or lost >= -1e-9


def test_the_best_detection_on_a_box_decides_its_concept() -> None:
    here = [10.0, 10, 20, 20]
    truth = world((0, 0, here), (1, 0, here), (2, 0, here), (2, 1, [60, 60, 30, 30]))
    found = detections(
        (0, 0, 0.3, here),
        (0, 1, 0.2, here),
        (1, 2, 0.9, here),
        (1, 0, 0.8, here),
        (2, 1, 1.0, [60, 60, 30, 30]),
    )
    assert best_detections(truth, found).tolist() == [0, 2, -1, 4]
    text = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0.6, 0, 0.8]])
    (one,) = confusion(truth, found, text)
    assert (one.boxes, one.correct, one.base, one.other_novel, one.missed) == (3, 1, 1, 0, 1)
    assert [(n.name, round(n.cosine, 6)) for n in one.nearest] == [("concept 1", 0.8), ("concept 2", 0.6)]
    assert [(n.name, n.boxes) for n in one.detected_as] == [("concept 2", 1)]


def test_the_matrix_counts_every_object_once_and_detections_of_nothing() -> None:
    assert confusion_matrix(world(), detections(), 0.5) == {"concepts": [], "cells": []}
    here, there = [10.0, 10, 20, 20], [60.0, 60, 30, 30]
    truth = world((0, 0, here), (0, 1, there), (1, 0, here), (2, 2, here))
    truth = replace(truth, crowd=np.array([False, False, False, True]))
    found = detections(
        (0, 1, 0.9, here),  # the novel object is called concept 1
        (0, 1, 0.8, there),
        (1, 0, 0.4, here),  # below the threshold: missed
        (1, 2, 0.7, there),  # nothing is there
        (2, 2, 0.7, here),  # on a crowd: neither
    )
    page = confusion_matrix(truth, found, 0.5)
    assert [(one["name"], one["split"], one["boxes"]) for one in page["concepts"]] == [
        ("concept 1", "base", 1),
        ("concept 2", "base", 0),
        ("concept 0", "novel", 2),
    ]
    assert page["cells"] == [[0, 0, 1], [2, 0, 1], [2, 3, 1], [3, 1, 1]]
    assert sum(count for row, _, count in page["cells"] if row < 3) == 3


@pytest.mark.parametrize("seed", range(4))
def test_the_matrix_equals_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, photos=6, concepts=4, boxes=20)
    found = random_found(rng, truth, 60)
    kept, page = found.where(found.scores >= 0.4), confusion_matrix(truth, found, 0.4)
    best, nothing = best_detections(truth, kept), len(truth.names)
    called = [int(kept.concepts[row]) if row >= 0 else nothing for row in best.tolist()]
    names = [one["name"] for one in page["concepts"]]
    counts = {(row, column): count for row, column, count in page["cells"]}
    for concept, name in enumerate(truth.names):
        boxes = [k for k in range(len(best)) if truth.concepts[k] == concept and not truth.crowd[k]]
        for other in range(nothing + 1):
            hits = [k for k in boxes if called[k] == other]
            if hits:
                column = len(names) if other == nothing else names.index(truth.names[other])
                assert counts.pop((names.index(name), column)) == len(hits)
    assert all(row == len(names) for row, _ in counts)


def test_mistakes_of_base_concepts_are_in_the_gallery_too() -> None:
    here, there = [10.0, 10, 20, 20], [60.0, 60, 30, 30]
    truth = world((0, 1, here), (1, 1, there))
    found = detections((1, 1, 0.9, there), (2, 2, 0.7, here))
    chosen = choose_examples(truth, found, 0.5, most=10)
    assert chosen == [("base missed", 0, "concept 1"), ("base false", 2, "concept 2")]


def test_the_gallery_has_as_many_images_as_asked_for() -> None:
    for most in range(40):
        counts = quotas(most)
        assert sum(counts.values()) == most
        assert all(abs(counts[kind] - most * share) <= 1 for kind, share in SHARES)


def test_the_gallery_shows_each_image_once_and_one_detection_per_object() -> None:
    here, there = [10.0, 10, 20, 20], [60.0, 60, 30, 30]
    truth = world((0, 0, here), (1, 0, there))
    found = detections((0, 0, 0.9, here), (0, 1, 0.8, here), (2, 0, 0.7, here), (1, 0, 0.1, there))
    chosen = choose_examples(truth, found, 0.5, most=10)
    assert [(kind, image) for kind, image, _ in chosen] == [("found", 0), ("missed", 1), ("false", 2)]
    seen = shown_detections(truth, found, 0, 0.5)
    assert (seen.concepts.tolist(), seen.right.tolist()) == ([0], [True])
    assert len(shown_detections(truth, found, 1, 0.5).scores) == 0


def test_a_log_is_read_in_order_without_incomplete_lines(tmp_path) -> None:
    assert read_log(tmp_path) == {}
    lines = [{"kind": "train", "step": s, "loss_total": float(s)} for s in (2, 1, 1)]
    text = (
        "\n".join(map(json.dumps, lines))
        + '\n{"kind": "evaluation", "step": 2, "ap50_novel": NaN}\n{"kind": "tr'
    )
    (tmp_path / "metrics.jsonl").write_text(text)
    log = read_log(tmp_path)
    assert log["train"] == {"step": [1.0, 2.0], "loss_total": [1.0, 2.0]}
    assert log["evaluation"]["ap50_novel"] == [None]
    long = "\n".join(json.dumps({"kind": "train", "step": s, "lr": 1.0}) for s in range(1, 1001))
    (tmp_path / "metrics.jsonl").write_text(long)
    columns = read_log(tmp_path)["train"]
    assert len(columns["step"]) <= MAX_POINTS
    assert columns["step"][-1] == 1000
