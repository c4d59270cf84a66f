"""Engines, figures and intervals against a slow reference, the published numbers and each other."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import build_index, open_index
from cckt.detector.evaluation.bootstrap import intervals, weighted_ap, weighted_table
from cckt.detector.evaluation.compare_runs import compare_detections
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.engines import IOU_THRESHOLDS, curves
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.matches import best_f1, match
from cckt.detector.evaluation.metrics import summarise
from cckt.detector.evaluation.truth import locate, truth_of
from tests.detector.evaluation.evaluation_world import make_data, random_found, random_truth
from tests.detector.evaluation.slow_ap import average_precision
from tests.places import SHARED

ENGINES = ("hotcoco", "pycocotools")


def detections(*rows: tuple[int, int, float, list[float]]) -> Detections:
    images, categories, scores, boxes = zip(*rows, strict=True) if rows else ((), (), (), np.empty((0, 4)))
    return Detections(np.array(images), np.array(categories), np.array(scores), np.array(boxes, float))


@pytest.mark.parametrize("engine", ENGINES)
def test_no_detection_at_all_is_zero_where_there_is_something_to_find(tmp_path, engine):
    metrics = evaluate_detections(make_data(tmp_path), Detections.empty(), engine=engine)
    assert (metrics.ap50_base, metrics.ap, metrics.detections) == (0.0, 0.0, 0)
    assert math.isnan(metrics.ap50_novel)  # three photos hold no kite


@pytest.mark.parametrize("engine", ENGINES)
def test_a_concept_without_a_box_is_nan_minus_one_none_and_a_dash(tmp_path, engine):
    metrics = evaluate_detections(make_data(tmp_path), detections((11, 3, 0.9, [0, 0, 5, 5])), engine=engine)
    kite = next(c for c in metrics.per_concept if c.name == "kite")
    assert (kite.boxes, math.isnan(kite.ap50)) == (0, True)
    assert metrics.as_dict()["ap50_novel"] is None
    assert dict(metrics.rows())["AP50 novel"] == "–"
    assert metrics.stats[4] == -1.0  # no medium box
    assert metrics.concept_rows()[-1][0] == "kite"
    json.dumps(metrics.as_dict(), allow_nan=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_data_set_without_any_box_has_no_figures(tmp_path, engine):
    metrics = evaluate_detections(make_data(tmp_path, photos=1), Detections.empty(), engine=engine)
    assert all(math.isnan(value) for value in (metrics.ap, metrics.ap50_all, metrics.ar_most))


@pytest.mark.parametrize("engine", ENGINES)
def test_other_concepts_are_neither_truth_nor_detections(tmp_path, engine):
    index = make_data(tmp_path, photos=5)
    found = detections((14, 4, 0.9, [30, 8, 8, 12]), (14, 3, 0.8, [20, 8, 8, 12]))
    metrics = evaluate_detections(index, found, engine=engine)
    assert [c.name for c in metrics.per_concept] == ["cat", "dog", "kite"]
    # Kites are in photos 13 and 14: one of two is found.
    assert metrics.ap50_novel == pytest.approx(51 / 101)
    assert metrics.ap50_all == pytest.approx((0 + 0 + 51 / 101) / 3)
    assert metrics.ap_novel == pytest.approx(51 / 101)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_second_of_two_equal_detections_is_wrong(tmp_path, engine):
    index = make_data(tmp_path, photos=3)
    one, other = (11, 1, 0.9, [0, 5, 8, 12]), (12, 1, 0.5, [0, 6, 8, 12])
    once = evaluate_detections(index, detections(one, other), engine=engine)
    assert once.per_concept[0].ap50 == pytest.approx(1.0)
    twice = evaluate_detections(index, detections(one, one, other), engine=engine)
    assert twice.per_concept[0].ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_crowd_takes_any_number_and_is_not_missed(tmp_path, engine):
    index = make_data(tmp_path, photos=3, crowd=True)  # all cats are crowds
    found = detections(
        *[(11, 1, 0.9 - k / 10, [0, 5, 8, 12]) for k in range(3)], (12, 2, 0.5, [10, 6, 8, 12])
    )
    metrics = evaluate_detections(index, found, engine=engine)
    assert math.isnan(metrics.per_concept[0].ap)
    assert metrics.ap50_base == pytest.approx(1.0)
    assert metrics.boxes == 1


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6), federated=st.booleans(), boxes=st.integers(0, 14), count=st.integers(0, 40)
)
def test_both_engines_and_the_records_equal_the_slow_reference(seed, federated, boxes, count):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, photos=3, concepts=3, boxes=boxes, federated=federated)
    found = random_found(rng, truth, count)
    tables = [curves(truth, found, engine) for engine in ENGINES]
    np.testing.assert_array_equal(tables[0].precision, tables[1].precision)
    np.testing.assert_array_equal(tables[0].recall, tables[1].recall)
    records = match(truth, found, tuple(IOU_THRESHOLDS[[0, 5]]))
    ours = weighted_ap(truth, records, np.ones((1, 3)))[0]
    for concept in range(3):
        slow = [
            [average_precision(truth, found, concept, iou, area) for iou in IOU_THRESHOLDS[[0, 5]]]
            for area in range(4)
        ]
        for area in range(4):
            fast = tables[0].precision[[0, 5], :, concept, area, -1].mean(1)
            np.testing.assert_allclose(fast, slow[area], atol=1e-9)
        expected = np.nan if slow[0][0] == -1 else np.mean(slow[0])
        np.testing.assert_allclose(ours[concept], expected, atol=1e-9)


@pytest.mark.parametrize("federated", [False, True])
def test_more_detections_than_the_limit_are_cut_alike(federated):
    rng = np.random.default_rng(3)
    truth = random_truth(rng, photos=2, concepts=2, boxes=40, federated=federated)
    found = random_found(rng, truth, 1500)
    tables = [curves(truth, found, engine) for engine in ENGINES]
    np.testing.assert_array_equal(tables[0].precision, tables[1].precision)
    ours = weighted_ap(truth, match(truth, found), np.ones((1, 2)))[0]
    for concept in range(2):
        slow = average_precision(truth, found, concept, 0.5)
        assert tables[0].precision[0, :, concept, 0, -1].mean() == pytest.approx(slow, abs=1e-9)
        assert ours[concept] == pytest.approx(slow, abs=1e-9)


def test_lvis_figures_are_means_over_frequencies_and_have_no_small_limits():
    rng = np.random.default_rng(5)
    truth = random_truth(rng, photos=6, concepts=6, boxes=50, federated=True)
    metrics = summarise(truth, curves(truth, random_found(rng, truth, 300)), detections=300, engine="hotcoco")
    for letter, value in (("r", metrics.ap_r), ("c", metrics.ap_c), ("f", metrics.ap_f)):
        assert value == pytest.approx(np.mean([c.ap for c in metrics.per_concept if c.frequency == letter]))
    assert math.isnan(metrics.ar_1)
    assert metrics.protocol == "ov-lvis"
    assert dict(metrics.rows())["APr"] != "–"


PUBLISHED = (0.504581, 0.696973, 0.572982, 0.585626, 0.519400, 0.501398)
PUBLISHED += (0.386813, 0.593680, 0.595353, 0.639811, 0.566421, 0.564291)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_coco_apis_own_pair_gives_the_published_numbers(tmp_path, engine):
    folder = SHARED / "coco_eval_reference"
    if not folder.is_dir():
        pytest.skip("the COCO API's reference pair is not in ../shared/data")
    photos = tmp_path / "photos"
    photos.mkdir()
    annotations = folder / "instances_val2014_100.json"
    first = json.loads(annotations.read_text())["images"][0]
    (photos / first["file_name"]).touch()
    build_index(annotations, photos, tmp_path / "data", "all-base")
    found = Detections.from_json(folder / "instances_val2014_fakebbox100_results.json")
    metrics = evaluate_detections(open_index(tmp_path / "data"), found, engine=engine)
    np.testing.assert_allclose(metrics.stats, PUBLISHED, atol=1e-6)


def test_both_engines_agree_on_real_photos(tmp_path):
    folder = SHARED / "coco_photos"
    if not folder.is_dir():
        pytest.skip("the COCO photos are not in ../shared/data")
    annotations = folder / "annotations" / "instances_val2017.json"
    build_index(annotations, folder / "val2017", tmp_path / "data", "coco-48-17")
    index = open_index(tmp_path / "data")
    rng = np.random.default_rng(0)
    source = rng.integers(len(index.annotation_ids), size=1500)
    corners = index.box_xyxy[source] + rng.normal(0, 6, (1500, 4))
    boxes = np.concatenate([corners[:, :2], np.abs(corners[:, 2:] - corners[:, :2])], 1)
    rows = np.where(rng.random(1500) < 0.7, index.box_concepts[source], rng.integers(80, size=1500))
    images = index.image_ids[index.box_images[source]]
    found = Detections(images, index.concepts.category_ids[rows], rng.random(1500).round(2), boxes)
    one, other = (evaluate_detections(index, found, engine=engine) for engine in ENGINES)
    np.testing.assert_allclose(one.stats, other.stats, atol=1e-6)
    assert repr(one.per_concept) == repr(other.per_concept)
    assert len(one.per_concept) == 65
    assert 0 < one.ap50_novel < 1


def test_a_weight_of_two_is_a_photo_that_stands_there_twice():
    rng = np.random.default_rng(11)
    truth = random_truth(rng, photos=3, concepts=2, boxes=20)
    found = random_found(rng, truth, 60)
    # Different scores, for a copy's place among equal ones is a matter of taste.
    found = type(found)(found.images, found.concepts, rng.permutation(60) / 60.0, found.boxes_xywh)
    records = match(truth, found)
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


def test_intervals_hold_the_figure_and_are_the_same_again():
    rng = np.random.default_rng(2)
    truth = random_truth(rng, photos=40, concepts=4, boxes=200)
    records = match(truth, random_found(rng, truth, 800))
    drawn = intervals(truth, records, resamples=200, seed=1)
    assert set(drawn) == {"ap50_base", "ap50_novel", "ap50_all"}
    for interval in drawn.values():
        assert interval.low <= interval.value <= interval.high
        assert 0.01 < interval.high - interval.low < 0.4
    assert drawn == intervals(truth, records, resamples=200, seed=1)


def test_many_detections_and_resamples_are_taken_in_parts(monkeypatch):
    rng = np.random.default_rng(4)
    truth = random_truth(rng, photos=9, concepts=4, boxes=70)
    found = random_found(rng, truth, 400)
    weights = rng.integers(0, 3, (40, 9)).astype(float)
    whole = match(truth, found, (0.5, 0.75))
    table = weighted_table(truth, whole, weights)
    monkeypatch.setattr("cckt.detector.evaluation.matches.CHUNK", 33)
    monkeypatch.setattr("cckt.detector.evaluation.bootstrap.TOGETHER", 7)
    parted = match(truth, found, (0.5, 0.75))
    np.testing.assert_array_equal(parted.box, whole.box)
    np.testing.assert_array_equal(weighted_table(truth, parted, weights), table)


def test_ap_has_an_interval_too_of_its_own_thresholds():
    rng = np.random.default_rng(7)
    truth = random_truth(rng, photos=30, concepts=3, boxes=120)
    found = random_found(rng, truth, 500)
    drawn = intervals(truth, match(truth, found, tuple(IOU_THRESHOLDS)), resamples=60)
    assert set(drawn) == {"ap50_base", "ap50_novel", "ap50_all", "ap"}
    ap = summarise(truth, curves(truth, found), detections=500, engine="hotcoco").ap
    assert drawn["ap"].value == pytest.approx(ap, abs=1e-9)
    assert drawn["ap"].low < ap < drawn["ap"].high < drawn["ap50_all"].high


def test_intervals_without_anything_to_find_are_void(tmp_path):
    metrics = evaluate_detections(make_data(tmp_path), Detections.empty(), resamples=20)
    assert math.isnan(metrics.intervals["ap50_novel"].low)
    assert metrics.as_dict()["intervals"]["ap50_novel"]["low"] is None
    assert dict(metrics.rows())["AP50 base"] == "0.0 (0.0 to 0.0)"
    assert dict(metrics.rows())["AP50 novel"] == "–"


def test_a_comparison_tells_a_better_run_from_the_same_run(tmp_path):
    index = make_data(tmp_path, photos=24)
    truth = truth_of(index)
    ids, categories = truth.image_ids[truth.images], truth.category_ids[truth.concepts]
    good = Detections(ids, categories, np.linspace(0.9, 0.1, len(ids)), truth.boxes_xywh)
    half = good.where(np.random.default_rng(0).random(len(ids)) < 0.5)
    same = compare_detections(index, good, good, resamples=100)["ap50_novel"]
    assert (same.difference, same.differs, same.p) == (0.0, False, 1.0)
    worse = compare_detections(index, good, half, resamples=100)["ap50_novel"]
    assert worse.differs
    assert worse.difference < -0.2
    assert worse.p < 0.05


def test_the_best_score_keeps_what_is_right():
    rng = np.random.default_rng(0)
    truth = random_truth(rng, photos=5, concepts=2, boxes=20)
    truth = type(truth)(**{**vars(truth), "crowd": np.zeros(20, bool)})
    found = random_found(rng, truth, 20)
    right = type(found)(truth.images, truth.concepts, np.full(20, 0.8), truth.boxes_xywh)
    wrong = type(found)(truth.images, truth.concepts, np.full(20, 0.3), truth.boxes_xywh + 500)
    both = type(found)(*(np.concatenate([getattr(one, n) for one in (wrong, right)]) for n in vars(right)))
    assert best_f1(truth, match(truth, both)) == {"score": 0.8, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert best_f1(truth, match(truth, wrong))["f1"] == 0.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((99, 1, 0.5, [0, 0, 1, 1]), "image id 99 is not in"),
        ((10, 77, 0.5, [0, 0, 1, 1]), "category id 77 is not in"),
    ],
)
def test_ids_outside_the_index_are_refused(tmp_path, rows, message):
    index = make_data(tmp_path)
    with pytest.raises(UserError, match=message):
        locate(detections(rows), index, truth_of(index))


def test_unknown_choices_are_refused(tmp_path):
    index = make_data(tmp_path)
    with pytest.raises(UserError, match="--engine slow is not known; expected one of hotcoco, pycocotools"):
        evaluate_detections(index, Detections.empty(), engine="slow")
    with pytest.raises(
        UserError, match="--protocol voc is not known; expected one of auto, ov-coco, ov-lvis, coco"
    ):
        evaluate_detections(index, Detections.empty(), protocol="voc")


def test_pycocotools_keeps_its_mouth_shut(tmp_path, capsys):
    evaluate_detections(make_data(tmp_path), Detections.empty(), engine="pycocotools")
    assert capsys.readouterr() == ("", "")
