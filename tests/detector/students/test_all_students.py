"""What every student must do, on tiny images and on a tiny data set."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import open_index
from cckt.detector.config.config import Config
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.export.graph import export_graph
from cckt.detector.export.onnx_graph import run_onnx
from cckt.detector.inference.predict import Predictor
from cckt.detector.losses.objective import Objective
from cckt.detector.students.boxes import paired_iou
from cckt.detector.students.build import build_student
from cckt.detector.students.contract import MASKED, Student, StudentOutput
from cckt.detector.students.targets import PaddedTargets, ProposalBoxes, Targets, pad_targets
from cckt.detector.training.train import train
from tests.detector.students.samples import CONCEPTS, WIDTH, some_boxes, some_targets, unit
from tests.detector.tiny import CONCEPTS as CATEGORIES
from tests.detector.tiny import make_data, tiny_config, unit_rows, write_column

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
OPTIONS = {
    "faster_rcnn": (
        "faster_rcnn.anchor_scale=2",
        "faster_rcnn.rois=24",
        "faster_rcnn.boxes=10",
        "faster_rcnn.train_boxes=20",
        "faster_rcnn.boxes_per_level=15",
        "faster_rcnn.train_boxes_per_level=30",
        "faster_rcnn.head_width=32",
        "faster_rcnn.roi_cells=3",
        "faster_rcnn.roi_side=16",
    ),
    "adamixer": (
        "adamixer.groups=2",
        "adamixer.points_in=4",
        "adamixer.points_out=6",
        "adamixer.dense_per_level=12",
        "adamixer.dense_scale=10",
        "adamixer.dense_candidates=3",
    ),
}
HEADS = ("model.text_projector=true", "model.image_head=true")
FIELDS = ("boxes", "logits", "region", "objectness", "text_region")
KINDS = pytest.mark.parametrize("kind", OPTIONS)


def options(kind: str, *more: str) -> Config:
    plain = ("guidance.enabled=false", "prior.source=none", "matcher.cost_similarity=0")
    return tiny_config(f"model.student={kind}", *plain, *OPTIONS[kind], *more)


def student(kind: str, *more: str, seed: int = 0) -> Student:
    torch.manual_seed(seed)
    return build_student(options(kind, *more), WIDTH)


def with_proposals(targets: Targets, count: int) -> Targets:
    distilled = torch.arange(count) < 2
    return replace(targets, proposals=ProposalBoxes(some_boxes(count), distilled))


def step(
    model: Student, targets: PaddedTargets, text: Tensor, images: Tensor
) -> tuple[StudentOutput, dict[str, Tensor]]:
    """Return the output and the losses of a training step."""
    config = model.config
    assert isinstance(config, Config)
    training = model.training_inputs(targets, text)
    output = model(images, None, text, None, training)
    pairs = model.match(output, targets, text)
    detection = model.detection_loss(output, targets, pairs, None, training)
    return output, dict(Objective(config, WIDTH)(output, pairs, detection, targets, epoch=5))


@KINDS
def test_shapes_and_ranges_of_a_prediction(kind: str) -> None:
    model, text = student(kind, *HEADS).eval(), unit(CONCEPTS, WIDTH)
    with torch.no_grad():
        encoded = model.encode(torch.randn(2, 3, 61, 48), None)
        found = model.decode(encoded, text, None)
        regions_found = model.region_proposals(encoded, text)
    boxes, objectness = regions_found.boxes, regions_found.objectness
    layers, batch, regions = found.boxes.shape[:3]
    assert (layers, batch) == (model.output_layers, 2)
    assert found.logits.shape == (layers, 2, regions, CONCEPTS)
    assert found.region.shape == (layers, 2, regions, WIDTH)
    assert found.kept is not None
    assert found.kept.shape == (2, regions)
    assert bool(((found.boxes >= 0) & (found.boxes <= 1)).all())
    torch.testing.assert_close(found.region.norm(dim=-1), torch.ones(layers, 2, regions))
    assert bool((found.logits[:, ~found.kept] == MASKED).all())
    assert found.image is None  # in training only
    assert boxes.shape == (2, objectness.shape[1], 4)
    assert bool(((boxes >= 0) & (boxes <= 1)).all())
    assert bool((objectness > MASKED / 2).any(1).all())
    trained = student(kind, *HEADS).train()(torch.randn(2, 3, 61, 48), None, text, None)
    assert trained.image is not None
    assert trained.image.shape == (2, WIDTH)


@KINDS
def test_a_batch_equals_its_images_one_by_one_with_any_padding(kind: str) -> None:
    model, text = student(kind, *HEADS).eval(), unit(CONCEPTS, WIDTH)
    big, small = torch.randn(3, 64, 96), torch.randn(3, 32, 64)
    images, padding = torch.zeros(2, 3, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool)
    images[0], padding[0] = big, False
    images[1, :, :32, :64], padding[1, :32, :64] = small, False
    with torch.no_grad():
        batched = model(images, padding, text, None)
        single = model(big[None], None, text, None)
        second = model(images[1:], padding[1:], text, None)
    for name in FIELDS:
        both = getattr(batched, name)
        for own, image in ((getattr(single, name), 0), (getattr(second, name), 1)):
            kept = batched.kept[image]
            torch.testing.assert_close(both[:, image][:, kept], own[:, 0][:, kept], atol=1e-4, rtol=1e-4)
    assert torch.equal(batched.kept[0], single.kept[0])
    assert torch.equal(batched.kept[1], second.kept[0])


@KINDS
def test_padding_holds_no_region(kind: str) -> None:
    model, text = student(kind).eval(), unit(CONCEPTS, WIDTH)
    images, padding = torch.randn(1, 3, 64, 96), torch.ones(1, 64, 96, dtype=torch.bool)
    padding[0, :8, :8] = False
    with torch.no_grad():
        encoded = model.encode(images, padding)
        found = model.decode(encoded, text, None)
    # One or few cells begin inside: less than the tensor has regions, and the others are marked.
    assert found.kept is not None
    assert 0 < int(found.kept.sum()) < found.kept.numel()


@KINDS
def test_class_logits_of_a_concept_do_not_depend_on_other_concepts(kind: str) -> None:
    model, text, images = student(kind).eval(), unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        full, part = model(images, None, text, None), model(images, None, text[[3, 1]], None)
    torch.testing.assert_close(full.logits[..., [3, 1]], part.logits)


@KINDS
@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("proposals", [True, False])
def test_every_parameter_gets_a_finite_gradient(kind: str, objects: bool, proposals: bool) -> None:
    model, text = student(kind), unit(CONCEPTS, WIDTH)
    targets = [some_targets([0, 3] if objects else []), some_targets([])]
    if proposals:
        targets = [with_proposals(one, count) for one, count in zip(targets, (3, 0), strict=True)]
    padded = pad_targets(targets)
    with torch.autocast("cpu", torch.bfloat16):
        training = model.training_inputs(padded, text)
        output = model(torch.randn(2, 3, 48, 48), None, text, None, training)
    assert output.boxes.dtype == output.logits.dtype == output.region.dtype == torch.float32
    pairs = model.match(output, padded, text)
    detection = model.detection_loss(output, padded, pairs, None, training)
    Objective(options(kind), WIDTH)(output, pairs, detection, padded, epoch=5)["total"].backward()
    missing = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert missing == []
    assert all(bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None)


STEPS = 150
"""Steps in which a student learns one image."""


@KINDS
def test_it_learns_one_image(kind: str) -> None:
    model, text, images = student(kind, "train.batch=1"), unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    targets = pad_targets([some_targets([0, 3])])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, STEPS)  # boxes settle at a falling rate
    for _ in range(STEPS):
        _, losses = step(model, targets, text, images)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        rate.step()
    model.eval()
    with torch.no_grad():
        found = model(images, None, text, None)
    best = found.logits[-1, 0].flatten().topk(2).indices
    assert sorted((best % CONCEPTS).tolist()) == [0, 3]
    regions = best // CONCEPTS
    for region, concept in zip(regions.tolist(), (best % CONCEPTS).tolist(), strict=True):
        goal = targets.boxes[0, [0, 3].index(concept)]
        assert float(paired_iou(found.boxes[-1, 0, region], goal)) > 0.5


@KINDS
def test_activation_checkpointing_gives_the_same_gradients(kind: str) -> None:
    text, images = unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    targets, gradients = pad_targets([some_targets([0, 3])]), []
    for recompute in (False, True):
        model = student(kind).train()
        model.prepare_training(recompute)
        torch.manual_seed(1)
        step(model, targets, text, images)[1]["total"].backward()
        gradients.append({name: one.grad for name, one in model.named_parameters()})
    for name, one in gradients[0].items():
        torch.testing.assert_close(one, gradients[1][name], msg=name)


@KINDS
def test_weights_have_one_layout_in_training_and_inference(kind: str) -> None:
    layouts = []
    for prepare in ("prepare_training", "prepare_inference"):
        model = student(kind)
        getattr(model, prepare)(*([False] if prepare == "prepare_training" else []))
        layouts.append({name: one.stride() for name, one in model.named_parameters()})
    assert layouts[0] == layouts[1], "sums of other layouts round differently: two APs of one run"


@KINDS
def test_every_parameter_is_in_one_group(kind: str) -> None:
    model = student(kind, *HEADS)
    grouped = [id(one) for group in model.parameter_groups().values() for one in group]
    assert sorted(grouped) == sorted(id(one) for one in model.parameters() if one.requires_grad)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_data(tmp_path_factory.mktemp("data"), photos=6, sizes=((64, 64), (80, 64)))
    index = open_index(data)
    write_column(data, index, "priors/clip", np.full((6, CATEGORIES), 0.8, np.float32))
    return data


@KINDS
def test_a_run_resumes_to_the_bit_evaluates_predicts_and_exports(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    more = ("train.epochs=3", "train.accumulate=2", "train.ema_decay=0.9", "inference.nms=0.5")
    config = options(kind, *more)
    train(config, folder, None, tmp_path / "a")
    train(config, folder, None, tmp_path / "b", max_steps=4)
    train(config, folder, None, tmp_path / "b", resume=True, max_steps=9)
    one, other = (
        safetensors.torch.load_file(tmp_path / name / "checkpoints" / "step-00000009" / "model.safetensors")
        for name in "ab"
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "train"]
    assert len(losses) == 9
    assert sum(line["loss_contrast"] for line in losses[3:]) > 0  # CCKT-Det's term, from epoch 1 on
    assert evaluate_run(tmp_path / "a", folder).as_dict()["photos"] == 6
    detector = Predictor.load(tmp_path / "a", device="cpu")
    words = [f"thing {number}" for number in range(1, 5)]  # all that it was trained on: no rivals
    found = detector.predict(
        folder / "photos" / "p3.png", words, text=unit_rows(CATEGORIES, 1)[:4], min_score=0.0
    )[0]
    assert len(found.scores) > 0
    size = (64, 72)
    report = export_graph(
        detector, "cat, kite", tmp_path / "d.pt2", format="torch", size=size, text=unit_rows(2, 3)
    )
    assert max(report.boxes_difference, report.scores_difference) < 1e-3


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'cckt[export]')")
@KINDS
def test_an_onnx_graph_for_any_size_agrees_with_torch(kind: str, folder: Path, tmp_path: Path) -> None:
    train(options(kind, "data.eval_short_side=96"), folder, None, tmp_path / "run", max_steps=2)
    detector = Predictor.load(tmp_path / "run", device="cpu")
    report = export_graph(detector, "cat, kite", tmp_path / "d.onnx", text=unit_rows(2, 3))
    assert report.size is None
    photos = torch.rand((3, 3, 101, 77), generator=torch.Generator().manual_seed(1))
    boxes, scores = run_onnx(report.path, photos)
    assert boxes.shape[:2] == scores.shape[:2]
    assert float(scores.max()) > 0


def test_options_that_a_student_lacks_are_refused() -> None:
    with pytest.raises(UserError, match=r"option model\.relation_head: found True, expected false with"):
        student("faster_rcnn", *HEADS, "model.relation_head=true")
    with pytest.raises(UserError, match=r"option adamixer\.groups: found 3, expected a divisor of model\."):
        student("adamixer", "adamixer.groups=3")
    with pytest.raises(UserError, match=r"option model\.levels: found 1, expected at least 2"):
        student("adamixer", "model.strides=8", "model.levels=1")


def test_a_padded_query_is_in_no_pair() -> None:
    """More objects than distinct boxes: only the real queries are paired."""
    model, text = student("adamixer"), unit(CONCEPTS, WIDTH)
    targets = pad_targets([with_proposals(some_targets([0, 1, 2, 3, 4]), 2)])
    output = model(torch.randn(1, 3, 48, 48), None, text, None)
    kept = torch.arange(8)[None] < 3
    pairs = model.match(replace(output, kept=kept), targets, text)
    assert pairs.regions.shape == (2, 3)
    assert bool((pairs.regions < 3).all())
    assert pairs.proposals is not None
    assert pairs.proposals.regions.shape == (2, 0)
    kept = torch.arange(8)[None] < 6
    pairs = model.match(replace(output, kept=kept), targets, text)
    assert pairs.proposals is not None
    assert (pairs.regions.shape, pairs.proposals.regions.shape) == ((2, 5), (2, 1))
    both = torch.cat([pairs.regions, pairs.proposals.regions], 1).sort(1).values
    assert both.tolist() == [list(range(6))] * 2
