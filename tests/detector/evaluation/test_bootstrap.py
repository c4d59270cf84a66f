"""Intervals of figures: weighted and repeated images, blocks, comparisons of runs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cckt.detector.evaluation.bootstrap import intervals, weighted_ap, weighted_table
from cckt.detector.evaluation.coco_engines import IOU_THRESHOLDS, curves
from cckt.detector.evaluation.compare_runs import compare_detections
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.evaluation.match_detections import match_detections
from cckt.detector.evaluation.metrics import summarise
from tests.detector.evaluation.evaluation_world import make_data, random_found, random_truth
from tests.detector.evaluation.slow_ap import average_precision


def test_a_weight_of_two_equals_a_repeated_image():
    rng = np.random.default_rng(11)
    truth = random_truth(rng, photos=3, concepts=2, boxes=20)
    found = random_found(rng, truth, 60)
    # Different scores, because the order of a copy among equal scores is arbitrary.
    found = type(found)(found.images, found.concepts, rng.permutation(60) / 60.0, found.boxes_xywh)
    records = match_detections(truth, found)
    weights = np.array([[2.0, 0.0, 1.0]])
    copies = np.array([0, 0, 2])
    doubled = type(truth)(
        **{
            **vars(truth),
            "image_ids": np.arange(3),
            "images": np.concatenate([np.full((truth.images == p).sum(), k) for k, p in enumerate(copies)]),
            **{
                name: np.concatenate([getattr(truth, name)[truth.images == p] for p in copies])
                for name in ("concepts", "boxes_xywh", "areas", "crowd")
            },
        }
    )
    again = type(found)(
        np.concatenate([np.full((found.images == p).sum(), k) for k, p in enumerate(copies)]),
        *(
            np.concatenate([getattr(found, n)[found.images == p] for p in copies])
            for n in ("concepts", "scores", "boxes_xywh")
        ),
    )
    slow = [average_precision(doubled, again, concept, 0.5) for concept in range(2)]
    np.testing.assert_allclose(weighted_ap(truth, records, weights)[0], slow, atol=1e-9)


def test_intervals_contain_the_figure_and_are_reproducible():
    rng = np.random.default_rng(2)
    truth = random_truth(rng, photos=40, concepts=4, boxes=200)
    records = match_detections(truth, random_found(rng, truth, 800))
    drawn = intervals(truth, records, resamples=200, seed=1)
    assert set(drawn) == {"ap50_base", "ap50_novel", "ap50_all"}
    for interval in drawn.values():
        assert interval.low <= interval.value <= interval.high
        assert 0.01 < interval.high - interval.low < 0.4
    assert drawn == intervals(truth, records, resamples=200, seed=1)


def test_blocks_of_detections_and_resamples_give_the_same_table(monkeypatch):
    rng = np.random.default_rng(4)
    truth = random_truth(rng, photos=9, concepts=4, boxes=70)
    found = random_found(rng, truth, 400)
    weights = rng.integers(0, 3, (40, 9)).astype(float)
    whole = match_detections(truth, found, (0.5, 0.75))
    table = weighted_table(truth, whole, weights)
    monkeypatch.setattr("cckt.detector.evaluation.match_detections.CHUNK", 33)
    monkeypatch.setattr("cckt.detector.evaluation.bootstrap.RESAMPLES_AT_ONCE", 7)
    parted = match_detections(truth, found, (0.5, 0.75))
    np.testing.assert_array_equal(parted.box, whole.box)
    np.testing.assert_array_equal(weighted_table(truth, parted, weights), table)


def test_a_table_of_ap_at_ten_thresholds_equals_that_of_each_threshold():
    """Crowds, and verified words of LVIS, make detections count at some thresholds only."""
    rng = np.random.default_rng(5)
    truth = random_truth(rng, photos=12, concepts=3, boxes=90)
    truth = replace(truth, crowd=rng.random(len(truth.images)) < 0.3)
    found = random_found(rng, truth, 500)
    weights = rng.integers(0, 3, (6, 12)).astype(float)
    records = match_detections(truth, found, tuple(IOU_THRESHOLDS))
    assert (records.ignored.any(0) & ~records.ignored.all(0)).any()
    table = weighted_table(truth, records, weights)
    for row, threshold in enumerate(IOU_THRESHOLDS):
        alone = weighted_table(truth, match_detections(truth, found, (threshold,)), weights)
        np.testing.assert_array_equal(table[row], alone[0])


def test_ap_has_an_interval_over_its_ten_thresholds():
    rng = np.random.default_rng(7)
    truth = random_truth(rng, photos=30, concepts=3, boxes=120)
    found = random_found(rng, truth, 500)
    drawn = intervals(truth, match_detections(truth, found, tuple(IOU_THRESHOLDS)), resamples=60)
    assert set(drawn) == {"ap50_base", "ap50_novel", "ap50_all", "ap"}
    ap = summarise(truth, curves(truth, found), detections=500, engine="hotcoco").ap
    assert drawn["ap"].value == pytest.approx(ap, abs=1e-9)
    assert drawn["ap"].low < ap < drawn["ap"].high < drawn["ap50_all"].high


def test_intervals_without_boxes_are_nan(tmp_path):
    metrics = evaluate_detections(make_data(tmp_path), Detections.empty(), resamples=20)
    assert math.isnan(metrics.intervals["ap50_novel"].low)
    assert metrics.as_dict()["intervals"]["ap50_novel"]["low"] is None
    assert dict(metrics.rows())["AP50 base"] == "0.0 (0.0 to 0.0), only 3 boxes"
    assert dict(metrics.rows())["AP50 novel"] == "–"


def test_a_comparison_separates_a_worse_run_from_an_equal_one(tmp_path):
    index = make_data(tmp_path, photos=24)
    truth = ground_truth_of(index)
    ids, categories = truth.image_ids[truth.images], truth.category_ids[truth.concepts]
    good = Detections(ids, categories, np.linspace(0.9, 0.1, len(ids)), truth.boxes_xywh)
    half = good.where(np.random.default_rng(0).random(len(ids)) < 0.5)
    same = compare_detections(index, good, good, resamples=100)["ap50_novel"]
    assert (same.difference, same.differs, same.p) == (0.0, False, 1.0)
    worse = compare_detections(index, good, half, resamples=100)["ap50_novel"]
    assert worse.differs
    assert worse.difference < -0.2
    assert worse.p < 0.05
