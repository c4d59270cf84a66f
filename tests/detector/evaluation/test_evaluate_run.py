"""Evaluate a run: variants, priors, teachers, unreadable images, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.photos import load_photo
from cckt.cache_builder.store import open_column
from cckt.detector.config.config import InferenceConfig, PriorConfig
from cckt.detector.data.presence import disturb_present
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import _calibration, chosen_variant, evaluate_model, evaluate_run
from cckt.detector.evaluation.evaluation_set import CORRUPTED_ADD, CORRUPTED_DROP, open_evaluation_set
from cckt.detector.evaluation.inference_loop import Variant, infer
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.inference.own_evaluation import calibration_of_run
from cckt.detector.runs.run_folder import run_config
from tests.detector.evaluation.evaluation_world import (
    TEACHER,
    add_column,
    layers_of,
    make_data,
    make_deep_run,
    make_run,
    small_config,
    unit_rows,
)


@pytest.fixture
def index(tmp_path):
    index = make_data(tmp_path / "world", photos=5)
    add_column(index, "text", unit_rows(4))
    add_column(index, "priors/clip", np.random.default_rng(0).random((5, 4)).astype(np.float32))
    return index


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    return make_run(tmp_path / "run", small_config())


def test_a_run_writes_detections_and_metrics(index, run):
    metrics = evaluate_run(run, index.folder)
    folder = run / "eval-data-clip-similarity"
    assert metrics.figures["folder"] == str(folder)
    assert metrics.figures["images_per_second"] > 0
    assert json.loads((folder / "metrics.json").read_text()) == metrics.as_dict()
    found = Detections.from_json(folder / "detections.json")
    assert len(found) == metrics.detections == 5 * 10
    assert set(found.category_ids) <= {1, 2, 3}  # boat is neither base nor novel
    corners = found.boxes_xywh[:, :2] + found.boxes_xywh[:, 2:]
    assert (found.boxes_xywh[:, :2] >= 0).all()
    assert (corners <= [40.001, 32.001]).all()


def test_both_engines_give_the_same_metrics_of_a_run(index, run):
    one, other = (evaluate_run(run, index.folder, engine=engine) for engine in ("hotcoco", "pycocotools"))
    assert one.stats == other.stats


def test_detections_come_from_the_last_decoder_layer(index, tmp_path):
    run = make_deep_run(tmp_path / "deep")
    evaluate_run(run, index.folder, priors="none")
    found = Detections.from_json(run / "eval-data-none-similarity" / "detections.json")
    model, facts = load_inference_model(run)
    text = open_evaluation_set(index.folder, facts).text
    for row, image_id in enumerate(index.image_ids):
        image = model.preprocess(load_photo(index.photo_path(row)))
        boxes, scores = layers_of(model, [image], text, [[]])
        best = [layer.flatten().topk(10) for layer in scores[:, 0]]
        mine = found.where(found.image_ids == image_id)
        np.testing.assert_allclose(mine.scores, best[-1].values, atol=1e-4)  # alone and in a batch
        assert not np.allclose(mine.scores, best[0].values, atol=1e-3)
        corners = boxes[-1, 0, best[-1].indices // 3] * torch.tensor([40, 32, 40, 32])
        lefts = np.sort(corners[:, 0].clamp(0, 40).numpy())  # equal scores may change places
        np.testing.assert_allclose(np.sort(mine.boxes_xywh[:, 0]), lefts, atol=1e-2)


def test_a_crowd_is_not_a_present_concept_of_the_oracle(tmp_path):
    index = make_data(tmp_path / "world", photos=4, crowd=True)  # all cats are crowds
    add_column(index, "text", unit_rows(4))
    dataset = open_evaluation_set(index.folder)
    oracle = PriorConfig(source="oracle")
    assert [rows.tolist() for rows in dataset.present_concepts(oracle)] == [[], [], [1], [1, 2]]
    assert dataset.prior_probabilities(oracle)[:, 0].tolist() == [0, 0, 0, 0]


def test_the_tau_of_the_priors_is_recorded(index, run):
    recipe = {"tau": 0.03, "teacher": TEACHER["teacher"]}
    add_column(index, "priors/clip", np.full((5, 4), 0.8, np.float32), recipe)
    assert evaluate_run(run, index.folder).figures["prior_tau"] == 0.03
    assert evaluate_run(run, index.folder, priors="oracle").figures["prior_tau"] is None


def test_variants_of_one_pass_equal_separate_runs(index, run):
    network, facts = load_inference_model(run)
    scene = open_evaluation_set(index.folder, facts)
    low = PriorConfig(source="clip", rho=0.2, limit=2)
    variants = [
        Variant("similarity", network.config.prior, InferenceConfig(batch=3)),
        Variant("product", network.config.prior, InferenceConfig(classification="product")),
        Variant("head low", low, InferenceConfig(classification="head", top=4)),
        Variant("kept low", low, InferenceConfig(restrict_to_present=True)),
    ]
    together = infer(network, scene, variants)
    assert (together.photos, together.faults) == (5, ())
    for variant in variants:
        single = infer(network, scene, [variant]).detections[variant.name]
        both = together.detections[variant.name]
        np.testing.assert_array_equal(single.image_ids, both.image_ids)
        np.testing.assert_allclose(single.scores, both.scores, atol=1e-5)
    assert len(together.detections["head low"]) == 5 * 4


def test_prior_weight_makes_present_concepts_win(index, run):
    network, facts = load_inference_model(run)
    scene = open_evaluation_set(index.folder, facts)
    sure = PriorConfig(source="oracle")
    variants = [Variant(str(w), sure, InferenceConfig(prior_weight=w, top=1)) for w in (0.0, 5.0)]
    found = infer(network, scene, variants).detections
    truly = scene.present_concepts(sure)
    for row, image_id in enumerate(index.image_ids):
        ids = scene.vocabulary.category_ids[truly[row]].tolist()
        (best,) = found["5.0"].category_ids[found["5.0"].image_ids == image_id].tolist()
        assert best in ids or not ids
    plain = infer(network, scene, [Variant("x", sure, InferenceConfig(top=1))]).detections["x"]
    np.testing.assert_array_equal(plain.scores, found["0.0"].scores)
    blind = PriorConfig(source="none")
    unheard = [Variant(str(w), blind, InferenceConfig(prior_weight=w)) for w in (0.0, 1.0)]
    found = infer(network, scene, unheard).detections
    np.testing.assert_array_equal(found["0.0"].scores, found["1.0"].scores)


def test_corrupted_priors_are_disturbed_annotations_and_reproducible(index, run):
    scene = open_evaluation_set(index.folder, load_inference_model(run)[1])
    corrupted, oracle = PriorConfig(source="corrupted"), PriorConfig(source="oracle")
    first, again, true = (scene.present_concepts(prior) for prior in (corrupted, corrupted, oracle))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert any(not np.array_equal(np.sort(one), other) for one, other in zip(first, true, strict=True))
    table = scene.prior_probabilities(corrupted)
    assert [np.flatnonzero(row).tolist() for row in table] == [sorted(rows.tolist()) for rows in first]
    assert (CORRUPTED_DROP, CORRUPTED_ADD) == (0.2, 2.0)
    for image_id, rows, right in zip(index.image_ids, first, true, strict=True):
        random = np.random.default_rng(int(image_id))
        assert rows.tolist() == disturb_present(right, len(scene.rows), 0.2, 2.0, 0.0, random).tolist()


def test_images_are_encoded_once_for_all_priors(index, run):
    network, facts = load_inference_model(run)
    seen = []
    network.model.backbone.register_forward_hook(lambda *_: seen.append("encoded"))
    priors = [PriorConfig(source="clip", rho=rho, limit=limit) for rho in (0.1, 0.5) for limit in (1, 3)]
    variants = [Variant(f"{p.rho} {p.limit}", p, InferenceConfig(batch=5)) for p in priors]
    found = infer(network, open_evaluation_set(index.folder, facts), variants).detections
    assert seen == ["encoded"]
    assert len({tuple(one.scores) for one in found.values()}) > 1


def test_oracle_restriction_keeps_only_annotated_concepts(index, run):
    evaluate_run(run, index.folder, priors="oracle", restrict_to_present=True)
    found = Detections.from_json(run / "eval-data-oracle-similarity-restricted" / "detections.json")
    named = {
        int(image): set(found.category_ids[found.image_ids == image]) for image in np.unique(found.image_ids)
    }
    assert named == {11: {1}, 12: {1, 2}, 13: {1, 2, 3}, 14: {1, 2, 3}}


def test_priors_change_the_boxes_of_a_guided_run(index, run):
    none, oracle = (evaluate_run(run, index.folder, priors=source) for source in ("none", "oracle"))
    paths = [metrics.figures["folder"] for metrics in (none, oracle)]
    boxes = [Detections.from_json(f"{path}/detections.json").boxes_xywh for path in paths]
    assert not np.allclose(boxes[0], boxes[1])


def test_a_run_without_guidance_needs_no_priors(tmp_path):
    index = make_data(tmp_path / "world")
    add_column(index, "text", unit_rows(4))
    run = make_run(tmp_path / "run", small_config(guidance=False))
    assert evaluate_run(run, index.folder).detections == 30
    with pytest.raises(UserError, match="priors/clip"):
        evaluate_run(run, index.folder, restrict_to_present=True)


def test_overrides_change_options_of_priors_and_inference_only(index, run):
    metrics = evaluate_run(run, index.folder, overrides=["inference.top=2", "prior.rho=0.9"])
    folder = run / "eval-data-clip-similarity-top=2-rho=0.9"
    assert metrics.figures["folder"] == str(folder)
    assert metrics.detections == 2 * len(index)
    assert (folder / "metrics.json").is_file()
    with pytest.raises(
        UserError, match=r"--set train.lr=1: expected an option of the sections inference or prior"
    ):
        evaluate_run(run, index.folder, overrides=["train.lr=1"])
    with pytest.raises(UserError, match=r"inference\.topp"):
        evaluate_run(run, index.folder, overrides=["inference.topp=2"])


def test_requests_are_judged_by_the_scores_that_predict_would_show(index, run):
    """The calibration of a run is of its own way of scoring; other scores stay as they are."""
    evaluate_run(run, index.folder)
    known = calibration_of_run(run)
    assert known is not None
    config = run_config(run)
    assert _calibration(run, chosen_variant(config), False) == known
    assert _calibration(run, chosen_variant(config, None, "head"), False) == ScoreCalibration.none(0.5)
    raw = ScoreCalibration.none(0.5).apply(np.array([0.1, 0.7]), np.array([True, False]))
    np.testing.assert_allclose(raw, [0.1, 0.7], atol=1e-6)


def test_an_unreadable_image_has_no_detections_and_is_counted(index, run):
    (index.image_root / "3.png").write_bytes(b"no photo")
    metrics = evaluate_run(run, index.folder)
    assert metrics.figures["photos_unreadable"] == 1
    found = Detections.from_json(run / "eval-data-clip-similarity" / "detections.json")
    assert set(found.image_ids) == {10, 11, 12, 14}


def test_non_finite_scores_are_refused(index, run):
    network, _ = load_inference_model(run)
    for head in network.model.region_heads:
        torch.nn.init.constant_(head.linear.weight, float("nan"))
    with pytest.raises(UserError, match="score nan"):
        evaluate_model(network.model, network.config, index)


def test_another_teacher_is_refused_with_both_digests(index, run):
    other = {"teacher": {"name": "large", "architecture": "large", "weight_digest": "sha256:bb"}}
    add_column(index, "text", unit_rows(4), other)
    with pytest.raises(UserError, match=r"large \(sha256:bb\).*small \(sha256:aa\).*cckt cache text"):
        evaluate_run(run, index.folder)


def test_an_imported_table_must_have_the_width_of_the_run(index, run):
    add_column(index, "text", np.eye(4, dtype=np.float32), {"import": {"file": "t.npy"}})
    with pytest.raises(UserError, match="4 wide, the run's embeddings 16, expected one teacher's width"):
        evaluate_run(run, index.folder)
    add_column(index, "text", unit_rows(4), {"import": {"file": "t.npy"}})
    assert evaluate_run(run, index.folder).detections == 50


def test_missing_inputs_are_named(tmp_path, run):
    index = make_data(tmp_path / "bare")
    with pytest.raises(UserError, match=r"cckt cache all .* --teacher small`"):
        evaluate_run(run, index.folder)
    add_column(index, "text", unit_rows(4))
    with pytest.raises(UserError, match="priors/clip"):
        evaluate_run(run, index.folder)
    with pytest.raises(UserError, match=r"no config.toml, expected a run folder"):
        evaluate_run(tmp_path, index.folder)
    with pytest.raises(UserError, match="expected priors that rule concepts out"):
        evaluate_run(run, index.folder, priors="none", restrict_to_present=True)
    with pytest.raises(
        UserError, match="--priors guess is not known; expected one of clip, mllm, oracle, corrupted, none"
    ):
        evaluate_run(run, index.folder, priors="guess")
    with pytest.raises(UserError, match="--classification best is not known"):
        evaluate_run(run, index.folder, classification="best")


def test_evaluation_does_not_change_the_columns(index, run):
    before = open_column(index.folder, "text").all()
    evaluate_run(run, index.folder)
    np.testing.assert_array_equal(open_column(index.folder, "text").all(), before)
