"""Protocols: scored concepts, refused indexes, comparisons of runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index, build_index, open_index
from cckt.cache_builder.index.splits import OV_COCO
from cckt.detector.config.config import changed
from cckt.detector.evaluation.bootstrap import intervals, thresholds_for
from cckt.detector.evaluation.coco_engines import curves
from cckt.detector.evaluation.compare_runs import compare_runs
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_detections, evaluate_run
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.evaluation.match_detections import match_detections
from cckt.detector.evaluation.metrics import summarise
from cckt.detector.evaluation.protocols import PROTOCOLS, protocol_for
from tests.detector.evaluation.evaluation_world import (
    add_column,
    make_data,
    make_run,
    random_found,
    random_truth,
    small_config,
    unit_rows,
)

COCO = [
    (int(entry.split(" ", 1)[0]), entry.split(" ", 1)[1])
    for text in OV_COCO.values()
    for entry in text.split(", ")
]


def build(
    folder: Path, categories: list[dict], boxes: list[tuple], split: str, keep: str = "all", **image: object
) -> Index:
    """Three photos of 100 x 100 with ids 1..3; boxes: (image id, category id, xywh)."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    (folder / "photos" / "1.png").touch()
    images = [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 100, **image} for n in (1, 2, 3)]
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, (i, c, b) in enumerate(boxes, 1)
    ]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    build_index(file, folder / "photos", folder / keep, split, keep)
    return open_index(folder / keep)


def coco_world(folder: Path, split: str = "all-base", keep: str = "all") -> Index:
    """Three photos: a person (base), a cat (novel), a wine glass (other)."""
    categories = [{"id": number, "name": name} for number, name in COCO]
    boxes = [(1, 1, [0, 0, 40, 40]), (2, 17, [0, 0, 40, 40]), (3, 46, [0, 0, 40, 40])]
    return build(folder, categories, boxes, split, keep)


def found(*rows: tuple[int, int, float]) -> Detections:
    images, categories, scores = zip(*rows, strict=True)
    boxes = np.tile([0.0, 0, 40, 40], (len(rows), 1))
    return Detections(np.array(images), np.array(categories), np.array(scores), boxes)


ALL_THREE = found((1, 1, 0.9), (2, 17, 0.8), (3, 46, 0.7))


@pytest.mark.parametrize("split", ["all-base", "coco-48-17"])
def test_ov_coco_scores_48_and_17_whatever_split_the_index_has(tmp_path, split):
    metrics = evaluate_detections(coco_world(tmp_path, split), ALL_THREE, protocol="ov-coco")
    assert metrics.protocol == "ov-coco"
    assert (metrics.ap50_base, metrics.ap50_novel) == (pytest.approx(1.0), pytest.approx(1.0))
    assert [sum(c.split == s for c in metrics.per_concept) for s in ("base", "novel")] == [48, 17]
    assert "wine glass" not in [c.name for c in metrics.per_concept]


def test_coco_scores_the_split_other_too(tmp_path):
    index = coco_world(tmp_path, "coco-48-17")
    metrics = evaluate_detections(index, found((1, 1, 0.9), (2, 17, 0.8)), protocol="coco")
    assert len(metrics.per_concept) == 80
    assert metrics.ap == pytest.approx(2 / 3)  # the wine glass was missed
    assert [label for label, _ in metrics.rows()][:3] == ["AP", "AP50", "AP75"]
    assert evaluate_detections(index, ALL_THREE).protocol == "ov-coco"  # auto depends on the index


def test_a_base_only_index_cannot_be_scored_for_novel(tmp_path):
    index = coco_world(tmp_path, "coco-48-17", keep="base")
    for name, missing in (("ov-coco", 17), ("coco", 32)):
        with pytest.raises(UserError, match=f"{name}: .*--keep base and holds no box of {missing} concepts"):
            evaluate_detections(index, ALL_THREE, protocol=name)
    assert math.isnan(evaluate_detections(index, ALL_THREE, protocol="custom").ap50_novel)


def test_ov_coco_refuses_other_names(tmp_path):
    index = make_data(tmp_path)
    with pytest.raises(
        UserError, match=r"category 1 is 'cat' there and must be 'person' as in COCO; use --protocol custom"
    ):
        evaluate_detections(index, Detections.empty(), protocol="ov-coco")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ov-lvis", r"have no frequency, expected r, c or f"),
        ("objects365", "has 4 concepts, expected 365"),
        ("voc", "--protocol voc is not known; expected one of auto, ov-coco, ov-lvis, coco, objects365"),
    ],
)
def test_protocols_that_do_not_fit_are_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        protocol_for(name, make_data(tmp_path))


@pytest.mark.parametrize("version", ["v1", "v0.5"])
def test_ov_lvis_is_federated_and_rare_is_novel(tmp_path, version):
    categories = [{"id": n, "name": f"n{n}", "frequency": f} for n, f in ((1, "r"), (2, "c"), (3, "f"))]
    marks = {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
    names = {"coco_url": "http://x/val2017/1.png"} if version == "v1" else {}
    boxes = [(1, 1, [0, 0, 40, 40]), (2, 2, [0, 0, 40, 40]), (3, 3, [0, 0, 40, 40])]
    index = build(tmp_path, categories, boxes, "lvis", **marks, **names)
    # The rare concept is detected in photo 1, and in photo 2, where it was not verified: not an error.
    rows = found((1, 1, 0.5), (2, 1, 0.9), (2, 2, 0.9), (1, 3, 0.9), (3, 3, 0.8))
    for engine in ("hotcoco", "pycocotools"):
        metrics = evaluate_detections(index, rows, protocol="ov-lvis", engine=engine)
        assert (metrics.ap_r, metrics.ap_c) == (pytest.approx(1.0), pytest.approx(1.0))
        assert metrics.ap_f == pytest.approx(0.5)  # verified to be absent from photo 1
        assert metrics.ap_novel == metrics.ap_r


def test_objects365_scores_all_of_its_concepts(tmp_path):
    categories = [{"id": n, "name": f"n{n}"} for n in range(1, 366)]
    index = build(tmp_path, categories, [(1, 365, [0, 0, 40, 40])], "all-base")
    metrics = evaluate_detections(index, found((1, 365, 0.9)), protocol="objects365")
    assert (len(metrics.per_concept), metrics.ap) == (365, pytest.approx(1.0))


@pytest.mark.parametrize("federated", [False, True])
def test_every_headline_figure_has_an_interval_around_the_value_of_the_engine(federated):
    rng = np.random.default_rng(4)
    truth = random_truth(rng, photos=12, concepts=6, boxes=60, federated=federated)
    name = "ov-lvis" if federated else "coco"
    truth = type(truth)(**{**vars(truth), "protocol": name, "headline": PROTOCOLS[name].headline})
    rows = random_found(rng, truth, 250)
    # Different scores, because the order of equal scores in different photos is arbitrary.
    rows = type(rows)(rows.images, rows.concepts, rng.permutation(250) / 250.0, rows.boxes_xywh)
    metrics = summarise(truth, curves(truth, rows), detections=250, engine="hotcoco")
    drawn = intervals(truth, match_detections(truth, rows, thresholds_for(truth)), resamples=30)
    assert tuple(drawn) == PROTOCOLS[name].headline
    for figure, interval in drawn.items():
        assert interval.value == pytest.approx(getattr(metrics, figure), abs=1e-9)
        assert interval.low <= interval.value <= interval.high


def test_transfer_uses_the_text_column_of_the_data_set(tmp_path):
    torch.manual_seed(0)
    config = changed(small_config(), "inference", batch=3)
    run = make_run(tmp_path / "run", config)  # trained on cat and dog
    index = coco_world(tmp_path / "coco")
    for number in (1, 2, 3):
        Image.new("RGB", (100, 100), (9 * number, 80, 20)).save(index.image_root / f"{number}.png")
    add_column(index, "text", unit_rows(80))
    metrics = evaluate_run(run, index.folder, priors="oracle", protocol="coco")
    assert metrics.detections == 3 * 100  # the protocol's, not the config's 10
    assert metrics.figures["folder"].endswith("-oracle-similarity-coco")
    transfer = metrics.figures["transfer"]
    assert (transfer["concepts_trained_on"], transfer["concepts_unseen"]) == (2, 78)
    assert ground_truth_of(index, "coco").concept_rows.tolist() == list(range(80))


def test_a_run_is_compared_with_itself_and_with_a_file(tmp_path):
    torch.manual_seed(0)
    index = make_data(tmp_path / "world", photos=6)
    add_column(index, "text", unit_rows(4))
    run = make_run(tmp_path / "run", small_config(guidance=False))
    duel = compare_runs(run, run, index.folder, priors="none", resamples=20)
    assert {one.difference for one in duel.comparisons.values()} == {0.0}
    assert not any(one.differs for one in duel.comparisons.values())
    truth = ground_truth_of(index)
    ids, categories = truth.image_ids[truth.images], truth.category_ids[truth.concepts]
    perfect = Detections(ids, categories, np.linspace(0.9, 0.5, len(ids)), truth.boxes_xywh)
    file = perfect.to_json(tmp_path / "perfect.json")
    duel = compare_runs(run, file, index.folder, priors="none", resamples=50)
    novel = duel.comparisons["ap50_novel"]
    assert (novel.b, novel.differs) == (pytest.approx(1.0), True)
    assert [row[5] for row in duel.rows() if row[0] == "ap50_novel"] == ["differs"]
    json.dumps(duel.as_dict(), allow_nan=False)


def test_a_comparison_without_novel_boxes_has_no_verdict(tmp_path):
    file = Detections.empty().to_json(tmp_path / "none.json")
    data = make_data(tmp_path / "world").folder  # three photos hold no kite
    duel = compare_runs(file, file, data, resamples=5)
    (row,) = [row for row in duel.rows() if row[0] == "ap50_novel"]
    assert row[3:] == ("–", "–", "nothing to compare")
    assert duel.as_dict()["comparisons"]["ap50_novel"]["p"] is None


def test_one_unusable_detection_refuses_the_whole_file(tmp_path):
    index = make_data(tmp_path / "world")
    good = {"image_id": 11, "category_id": 1, "bbox": [0, 5, 8, 12], "score": 0.9}
    for change, message in (
        ({"score": float("nan")}, "has the score nan"),
        ({"image_id": 99}, "image id 99 is not in"),
        ({"category_id": 99}, "category id 99 is not in"),
    ):
        (tmp_path / "d.json").write_text(json.dumps([good, {**good, **change}]))
        with pytest.raises(UserError, match=message):
            evaluate_detections(index, Detections.from_json(tmp_path / "d.json"))
