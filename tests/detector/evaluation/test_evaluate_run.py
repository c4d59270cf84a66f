"""A run on a data set: inference in variants, priors, teachers, bad photos, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import open_column
from cckt.detector.config.config import InferenceConfig, PriorConfig
from cckt.detector.data.presence import disturb_present
from cckt.detector.evaluation.detect import Variant, infer
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_model, evaluate_run
from cckt.detector.evaluation.scene import WITHHELD, WRONG, open_scene
from cckt.detector.inference.network import load_network
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
    add_column(index, "priors/clip", np.random.default_rng(0).random((5, 4)).astype(np.float32))
    return index


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    return make_run(tmp_path / "run", small_config())


def test_a_run_writes_what_it_found_and_its_figures(index, run):
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


def test_the_engine_does_not_matter(index, run):
    one, other = (evaluate_run(run, index.folder, engine=engine) for engine in ("hotcoco", "pycocotools"))
    assert one.stats == other.stats


def test_variants_of_one_pass_equal_separate_runs(index, run):
    network, facts = load_network(run)
    scene = open_scene(index.folder, facts)
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
        alone = infer(network, scene, [variant]).detections[variant.name]
        both = together.detections[variant.name]
        np.testing.assert_array_equal(alone.image_ids, both.image_ids)
        np.testing.assert_allclose(alone.scores, both.scores, atol=1e-5)
    assert len(together.detections["head low"]) == 5 * 4


def test_priors_weigh_on_scores_and_the_surest_wins(index, run):
    network, facts = load_network(run)
    scene = open_scene(index.folder, facts)
    sure = PriorConfig(source="oracle")
    variants = [Variant(str(w), sure, InferenceConfig(prior_weight=w, top=1)) for w in (0.0, 5.0)]
    found = infer(network, scene, variants).detections
    truly = scene.present(sure)
    for row, image_id in enumerate(index.image_ids):
        ids = scene.vocabulary.category_ids[truly[row]].tolist()
        (best,) = found["5.0"].category_ids[found["5.0"].image_ids == image_id].tolist()
        assert best in ids or not ids
    alone = infer(network, scene, [Variant("x", sure, InferenceConfig(top=1))]).detections["x"]
    np.testing.assert_array_equal(alone.scores, found["0.0"].scores)
    blind = PriorConfig(source="none")
    unheard = [Variant(str(w), blind, InferenceConfig(prior_weight=w)) for w in (0.0, 1.0)]
    found = infer(network, scene, unheard).detections
    np.testing.assert_array_equal(found["0.0"].scores, found["1.0"].scores)


def test_corrupted_priors_are_the_true_ones_with_mistakes_the_same_every_time(index, run):
    scene = open_scene(index.folder, load_network(run)[1])
    corrupted, oracle = PriorConfig(source="corrupted"), PriorConfig(source="oracle")
    first, again, true = (scene.present(prior) for prior in (corrupted, corrupted, oracle))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert any(not np.array_equal(np.sort(one), other) for one, other in zip(first, true, strict=True))
    table = scene.probabilities(corrupted)
    assert [np.flatnonzero(row).tolist() for row in table] == [sorted(rows.tolist()) for rows in first]
    assert (WITHHELD, WRONG) == (0.2, 2.0)
    for image_id, rows, right in zip(index.image_ids, first, true, strict=True):
        random = np.random.default_rng(int(image_id))
        assert rows.tolist() == disturb_present(right, len(scene.rows), 0.2, 2.0, 0.0, random).tolist()


def test_photos_are_encoded_once_however_many_priors_are_asked_with(index, run):
    network, facts = load_network(run)
    seen = []
    network.model.backbone.register_forward_hook(lambda *_: seen.append("encoded"))
    priors = [PriorConfig(source="clip", rho=rho, limit=limit) for rho in (0.1, 0.5) for limit in (1, 3)]
    variants = [Variant(f"{p.rho} {p.limit}", p, InferenceConfig(batch=5)) for p in priors]
    found = infer(network, open_scene(index.folder, facts), variants).detections
    assert seen == ["encoded"]
    assert len({tuple(one.scores) for one in found.values()}) > 1


def test_restricted_to_true_concepts_nothing_else_is_named(index, run):
    evaluate_run(run, index.folder, priors="oracle", restrict_to_present=True)
    found = Detections.from_json(run / "eval-data-oracle-similarity-restricted" / "detections.json")
    named = {
        int(image): set(found.category_ids[found.image_ids == image]) for image in np.unique(found.image_ids)
    }
    assert named == {11: {1}, 12: {1, 2}, 13: {1, 2, 3}, 14: {1, 2, 3}}


def test_priors_change_what_a_guided_run_answers(index, run):
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


def test_options_of_priors_and_scoring_may_be_others_than_the_runs(index, run):
    metrics = evaluate_run(run, index.folder, overrides=["inference.top=2", "prior.rho=0.9"])
    folder = run / "eval-data-clip-similarity-top=2-rho=0.9"
    assert metrics.figures["folder"] == str(folder)
    assert metrics.detections == 2 * len(index)
    assert (folder / "metrics.json").is_file()
    with pytest.raises(
        UserError, match=r"--set train.lr=1: an evaluation can change options of inference and"
    ):
        evaluate_run(run, index.folder, overrides=["train.lr=1"])
    with pytest.raises(UserError, match=r"inference\.topp"):
        evaluate_run(run, index.folder, overrides=["inference.topp=2"])


def test_a_photo_that_cannot_be_read_finds_nothing_and_is_said(index, run):
    (index.image_root / "3.png").write_bytes(b"no photo")
    metrics = evaluate_run(run, index.folder)
    assert metrics.figures["photos_unreadable"] == 1
    found = Detections.from_json(run / "eval-data-clip-similarity" / "detections.json")
    assert set(found.image_ids) == {10, 11, 12, 14}


def test_weights_that_give_no_number_are_refused_not_scored(index, run):
    network, _ = load_network(run)
    for head in network.model.region_heads:
        torch.nn.init.constant_(head.linear.weight, float("nan"))
    with pytest.raises(UserError, match="score nan"):
        evaluate_model(network.model, network.config, index)


def test_another_teacher_is_refused_by_both_digests(index, run):
    other = {"teacher": {"name": "large", "architecture": "large", "weight_digest": "sha256:bb"}}
    add_column(index, "text", unit_rows(4), other)
    with pytest.raises(UserError, match=r"large \(sha256:bb\).*small \(sha256:aa\).*cckt cache text"):
        evaluate_run(run, index.folder)


def test_a_table_made_elsewhere_must_have_the_width(index, run):
    add_column(index, "text", np.eye(4, dtype=np.float32), {"import": {"file": "t.npy"}})
    with pytest.raises(UserError, match="4 wide, the run's embeddings 16, expected one teacher's width"):
        evaluate_run(run, index.folder)
    add_column(index, "text", unit_rows(4), {"import": {"file": "t.npy"}})
    assert evaluate_run(run, index.folder).detections == 50


def test_what_is_missing_is_named(tmp_path, run):
    index = make_data(tmp_path / "bare")
    with pytest.raises(UserError, match="cckt cache text"):
        evaluate_run(run, index.folder)
    add_column(index, "text", unit_rows(4))
    with pytest.raises(UserError, match="priors/clip"):
        evaluate_run(run, index.folder)
    with pytest.raises(UserError, match=r"no config.toml, expected a run folder"):
        evaluate_run(tmp_path, index.folder)
    with pytest.raises(UserError, match="rules nothing out"):
        evaluate_run(run, index.folder, priors="none", restrict_to_present=True)
    with pytest.raises(
        UserError, match="--priors guess is not known; expected one of clip, mllm, oracle, corrupted, none"
    ):
        evaluate_run(run, index.folder, priors="guess")
    with pytest.raises(UserError, match="--classification best is not known"):
        evaluate_run(run, index.folder, classification="best")


def test_the_columns_stay_as_they_were(index, run):
    before = open_column(index.folder, "text").all()
    evaluate_run(run, index.folder)
    np.testing.assert_array_equal(open_column(index.folder, "text").all(), before)
