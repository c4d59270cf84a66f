"""Engines, figures and intervals against a slow reference, published numbers and each other."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index, build_index, open_index
from cckt.detector.evaluation.bootstrap import weighted_ap
from cckt.detector.evaluation.coco_engines import IOU_THRESHOLDS, curves
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.evaluation.locate import locate_detections
from cckt.detector.evaluation.match_detections import best_f1, match_detections
from cckt.detector.evaluation.metrics import summarise
from cckt.detector.inference.own_evaluation import DEFAULT_THRESHOLD
from tests.detector.evaluation.evaluation_world import make_data, random_found, random_truth
from tests.detector.evaluation.slow_ap import average_precision
from tests.places import SHARED

ENGINES = ("hotcoco", "pycocotools")


def detections(*rows: tuple[int, int, float, list[float]]) -> Detections:
    images, categories, scores, boxes = zip(*rows, strict=True) if rows else ((), (), (), np.empty((0, 4)))
    return Detections(np.array(images), np.array(categories), np.array(scores), np.array(boxes, float))


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_detections_score_zero_if_there_are_boxes(tmp_path, engine):
    metrics = evaluate_detections(make_data(tmp_path), Detections.empty(), engine=engine)
    assert (metrics.ap50_base, metrics.ap, metrics.detections) == (0.0, 0.0, 0)
    assert math.isnan(metrics.ap50_novel)  # three photos hold no kite


@pytest.mark.parametrize("engine", ENGINES)
def test_a_concept_without_a_box_is_nan_and_shown_as_a_dash(tmp_path, engine):
    metrics = evaluate_detections(make_data(tmp_path), detections((11, 3, 0.9, [0, 0, 5, 5])), engine=engine)
    kite = next(c for c in metrics.per_concept if c.name == "kite")
    assert (kite.boxes, math.isnan(kite.ap50)) == (0, True)
    assert metrics.as_dict()["ap50_novel"] is None
    assert dict(metrics.rows())["AP50 novel"] == "–"
    assert metrics.stats[4] == -1.0  # no medium box
    assert metrics.concept_rows()[-1][0] == "kite"
    json.dumps(metrics.as_dict(), allow_nan=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_data_set_without_boxes_has_nan_figures(tmp_path, engine):
    metrics = evaluate_detections(make_data(tmp_path, photos=1), Detections.empty(), engine=engine)
    assert all(math.isnan(value) for value in (metrics.ap, metrics.ap50_all, metrics.ar_most))


@pytest.mark.parametrize("engine", ENGINES)
def test_concepts_of_the_split_other_are_not_scored(tmp_path, engine):
    index = make_data(tmp_path, photos=5)
    found = detections((14, 4, 0.9, [30, 8, 8, 12]), (14, 3, 0.8, [20, 8, 8, 12]))
    metrics = evaluate_detections(index, found, engine=engine)
    assert [c.name for c in metrics.per_concept] == ["cat", "dog", "kite"]
    # Kites are in photos 13 and 14: one of two is found.
    assert metrics.ap50_novel == pytest.approx(51 / 101)
    assert metrics.ap50_all == pytest.approx((0 + 0 + 51 / 101) / 3)
    assert metrics.ap_novel == pytest.approx(51 / 101)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_second_of_two_equal_detections_is_a_false_positive(tmp_path, engine):
    index = make_data(tmp_path, photos=3)
    one, other = (11, 1, 0.9, [0, 5, 8, 12]), (12, 1, 0.5, [0, 6, 8, 12])
    once = evaluate_detections(index, detections(one, other), engine=engine)
    assert once.per_concept[0].ap50 == pytest.approx(1.0)
    twice = evaluate_detections(index, detections(one, one, other), engine=engine)
    assert twice.per_concept[0].ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_crowd_matches_any_number_and_is_never_missed(tmp_path, engine):
    index = make_data(tmp_path, photos=3, crowd=True)  # all cats are crowds
    found = detections(
        *[(11, 1, 0.9 - k / 10, [0, 5, 8, 12]) for k in range(3)], (12, 2, 0.5, [10, 6, 8, 12])
    )
    metrics = evaluate_detections(index, found, engine=engine)
    assert math.isnan(metrics.per_concept[0].ap)
    assert metrics.ap50_base == pytest.approx(1.0)
    assert metrics.boxes == 1


def areas_of_masks(folder: Path) -> tuple[Path, Index]:
    """Write annotations whose areas put boxes into other size ranges than width times height does."""
    (folder / "photos").mkdir()
    (folder / "photos" / "1.png").touch()
    images = [{"id": n, "file_name": f"{n}.png", "width": 400, "height": 400} for n in (1, 2)]
    sizes = [(50.0, 900.0), (50.0, 2000.0), (120.0, 5000.0), (120.0, 14000.0), (20.0, 300.0)]
    boxes = [
        {"image_id": n, "category_id": 1 + k % 2, "bbox": [20.0 * k, 60.0 * k, side, side], "area": area}
        for n in (1, 2)
        for k, (side, area) in enumerate(sizes)
    ]
    annotations = [{"id": number, "iscrowd": 0, **box} for number, box in enumerate(boxes, 1)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    build_index(file, folder / "photos", folder / "data", "all-base")
    return file, open_index(folder / "data")


@pytest.mark.parametrize("engine", ENGINES)
def test_size_ranges_use_the_annotated_area_as_pycocotools_does(tmp_path, engine):
    file, index = areas_of_masks(tmp_path)
    rows = [(2 - k % 2, 1 + k % 2, 0.9 - k / 10, [20.0 * k, 60.0 * k, s, s]) for k, s in enumerate((50, 50))]
    rows += [
        (1, 1, 0.5, [40, 120, 110, 120]),
        (2, 2, 0.4, [60, 180, 120, 118]),
        (1, 1, 0.3, [80, 240, 20, 20]),
    ]
    found = detections(*rows)
    metrics = evaluate_detections(index, found, engine=engine)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(found.to_records()), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    np.testing.assert_allclose(metrics.stats, evaluation.stats, atol=1e-12)
    counts = [metrics.boxes_per_figure[f"ap_{size}"] for size in ("small", "medium", "large")]
    assert counts == [4, 4, 2], "by width times height it would be 2, 4 and 4"
    assert len({metrics.ap_small, metrics.ap_medium, metrics.ap_large}) == 3


def test_figures_from_few_boxes_are_marked_with_their_number(tmp_path):
    many = evaluate_detections(make_data(tmp_path / "many", photos=14), Detections.empty())
    assert many.boxes_per_figure["ap50_base"] == 13 + 12
    assert many.boxes_per_figure["ap50_novel"] == 11
    assert dict(many.rows())["AP50 novel"] == "0.0"
    few = evaluate_detections(make_data(tmp_path / "few", photos=4), Detections.empty())
    shown = dict(few.rows())
    assert few.boxes_per_figure == few.as_dict()["boxes_per_figure"]
    assert shown["AP50 base"] == "0.0, only 5 boxes"
    assert shown["AP50 novel"] == "0.0, only 1 box"
    assert shown["AP large"] == "–"


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6), federated=st.booleans(), boxes=st.integers(0, 14), count=st.integers(0, 40)
)
def test_both_engines_and_the_matches_equal_the_slow_reference(seed, federated, boxes, count):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, photos=3, concepts=3, boxes=boxes, federated=federated)
    found = random_found(rng, truth, count)
    tables = [curves(truth, found, engine) for engine in ENGINES]
    np.testing.assert_array_equal(tables[0].precision, tables[1].precision)
    np.testing.assert_array_equal(tables[0].recall, tables[1].recall)
    records = match_detections(truth, found, tuple(IOU_THRESHOLDS[[0, 5]]))
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
def test_the_limit_on_detections_is_applied_equally(federated):
    rng = np.random.default_rng(3)
    truth = random_truth(rng, photos=2, concepts=2, boxes=40, federated=federated)
    found = random_found(rng, truth, 1500)
    tables = [curves(truth, found, engine) for engine in ENGINES]
    np.testing.assert_array_equal(tables[0].precision, tables[1].precision)
    ours = weighted_ap(truth, match_detections(truth, found), np.ones((1, 2)))[0]
    for concept in range(2):
        slow = average_precision(truth, found, concept, 0.5)
        assert tables[0].precision[0, :, concept, 0, -1].mean() == pytest.approx(slow, abs=1e-9)
        assert ours[concept] == pytest.approx(slow, abs=1e-9)


def test_lvis_figures_average_over_frequencies_and_have_one_limit():
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
def test_the_reference_pair_of_the_coco_api_gives_the_published_numbers(tmp_path, engine):
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


def test_the_best_threshold_keeps_exactly_the_correct_detections():
    rng = np.random.default_rng(0)
    truth = random_truth(rng, photos=5, concepts=2, boxes=20)
    truth = type(truth)(**{**vars(truth), "crowd": np.zeros(20, bool)})
    found = random_found(rng, truth, 20)
    right = type(found)(truth.images, truth.concepts, np.full(20, 0.8), truth.boxes_xywh)
    wrong = type(found)(truth.images, truth.concepts, np.full(20, 0.3), truth.boxes_xywh + 500)
    both = type(found)(*(np.concatenate([getattr(one, n) for one in (wrong, right)]) for n in vars(right)))
    assert best_f1(truth, match_detections(truth, both)) == {
        "score": 0.8,
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
    }
    none = best_f1(truth, match_detections(truth, wrong))
    assert none == {"score": DEFAULT_THRESHOLD, "precision": 0.0, "recall": 0.0, "f1": 0.0}


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
        locate_detections(detections(rows), index, ground_truth_of(index))


def test_unknown_choices_are_refused(tmp_path):
    index = make_data(tmp_path)
    with pytest.raises(UserError, match="--engine slow is not known; expected one of hotcoco, pycocotools"):
        evaluate_detections(index, Detections.empty(), engine="slow")
    with pytest.raises(
        UserError, match="--protocol voc is not known; expected one of auto, ov-coco, ov-lvis, coco"
    ):
        evaluate_detections(index, Detections.empty(), protocol="voc")


def test_pycocotools_prints_nothing(tmp_path, capsys):
    evaluate_detections(make_data(tmp_path), Detections.empty(), engine="pycocotools")
    assert capsys.readouterr() == ("", "")
