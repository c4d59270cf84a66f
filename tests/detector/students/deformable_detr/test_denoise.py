"""Denoising queries: draws, attention mask and losses."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, DenoiseConfig, LossConfig, OneToManyConfig
from cckt.detector.students.deformable_detr.criterion import denoising_loss
from cckt.detector.students.deformable_detr.denoise import group_count, noised_boxes, noised_queries
from cckt.detector.students.deformable_detr.outputs import NoisedQueries, TrainingQueries
from cckt.detector.students.deformable_detr.query_groups import attention_mask
from cckt.detector.students.targets import pad_targets
from cckt.detector.training.train import train
from tests.detector.students.samples import (
    CONCEPTS,
    TINY,
    WIDTH,
    losses_of,
    matched,
    slow_focal,
    slow_giou,
    some_output,
    some_targets,
    student,
    unit,
)
from tests.detector.students.test_model import present
from tests.detector.tiny import make_data, tiny_config

ON = DenoiseConfig(groups=2, wrong_words=0.5)


def drawn(
    text: Tensor, concepts: list[list[int]], config: DenoiseConfig = ON, queries: int = 40
) -> tuple[list, NoisedQueries]:
    targets = [some_targets(one) for one in concepts]
    return targets, noised_queries(pad_targets(targets), text, config, queries)


def test_without_objects_there_are_no_denoising_queries() -> None:
    text = unit(CONCEPTS, WIDTH)
    found = noised_queries(pad_targets([some_targets([])] * 2), text, ON, 40)
    assert found.boxes.shape == (2, 0, 4)
    assert found.words.shape == (2, 0, WIDTH)
    assert pad_targets([some_targets([]), some_targets([1, 2])]).real.tolist() == [
        [False, False],
        [True, True],
    ]


@pytest.mark.parametrize(
    ("configured", "objects", "queries", "groups"),
    [(5, 0, 50, 5), (5, 1, 50, 5), (5, 10, 50, 2), (5, 90, 50, 1)],
)
def test_many_objects_reduce_the_groups(configured: int, objects: int, queries: int, groups: int) -> None:
    assert group_count(configured, objects, queries) == groups


@pytest.mark.parametrize("noise", [0.0, 0.4, 1.0])
def test_sides_move_within_their_range(noise: float) -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.4]).expand(2000, 4)
    far = torch.arange(2000) % 2 == 1
    found = noised_boxes(boxes, far, noise)
    assert bool((found[:, 2:] >= 1e-3).all())
    before, after = (torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1) for b in (boxes, found))
    share = (after - before).abs() / torch.tensor([0.1, 0.2, 0.1, 0.2])
    assert float(share[~far].max()) <= noise + 1e-4
    if noise == 0.4:
        assert float(share[far].min()) >= 0.4 - 1e-4
        assert 0.75 < float(share[far].max()) <= 0.8 + 1e-4
        assert float(share[~far].max()) > 0.37
        assert abs(float((after - before).mean())) < 0.01  # in both directions


def test_a_noised_box_stays_inside_the_image() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[0.05, 0.95, 0.1, 0.1], [0.5, 0.5, 1.0, 1.0]]).repeat(200, 1)
    found = noised_boxes(boxes, torch.ones(400, dtype=torch.bool), 1.0)
    assert float(found.min()) >= 0
    assert float((found[:, :2] + found[:, 2:] / 2).max()) <= 1 + 1e-3


def test_queries_have_the_drawn_text_and_boxes() -> None:
    torch.manual_seed(0)
    text = unit(CONCEPTS, WIDTH)
    targets, found = drawn(text, [[0, 3, 3], [], [1]], replace(ON, groups=4))
    photos, objects, groups = 3, 3, found.groups
    assert groups == 4
    assert found.boxes.shape == (photos, groups * 2 * objects, 4)
    assert found.contents.shape == (groups * 2 * objects,)
    assert bool(((found.contents >= 0) & (found.contents < 40)).all())
    wrong = far = 0
    for b, g, half, m in itertools.product(range(photos), range(groups), range(2), range(objects)):
        slot = (g * 2 + half) * objects + m
        assert bool(found.real[b, slot]) == (m < len(targets[b]))
        if m >= len(targets[b]):
            assert not bool(found.words[b, slot].any())
            continue
        box, concept = targets[b].boxes[m], int(targets[b].concepts[m])
        share = (corners(found.boxes[b, slot]) - corners(box)).abs() / (box[2:].repeat(2) / 2)
        near, right = bool((share <= 0.4 + 1e-3).all()), torch.equal(found.words[b, slot], text[concept])
        if half == 0:
            assert near
            assert right
        else:
            assert near != right  # either the text or the box is wrong, never both
            wrong, far = wrong + (not right), far + (not near)
    assert wrong > 0
    assert far > 0


def corners(box: Tensor) -> Tensor:
    return torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


def test_the_only_concept_is_never_replaced() -> None:
    text = unit(1, WIDTH)
    _, found = drawn(text, [[0, 0]], replace(ON, wrong_words=1.0))
    assert torch.equal(found.words, text[0].expand_as(found.words))


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("groups", [0, 3])
def test_the_attention_mask_separates_queries_copies_and_groups(copied: bool, groups: int) -> None:
    queries, slots = 4, groups * 2
    mask = attention_mask(queries, copied, groups, slots, "cpu")
    copies = queries if copied else 0
    assert mask.shape == (queries + copies + slots,) * 2
    for i, j in itertools.product(range(len(mask)), repeat=2):
        if i < queries:
            expected = j < queries
        elif i < queries + copies:
            expected = i == j
        else:
            start = queries + copies
            expected = j < queries or (j >= start and (i - start) // 2 == (j - start) // 2)
        assert bool(mask[i, j]) == expected, (i, j)


@pytest.mark.parametrize("reference", ["learned", "encoder", "guided"])
def test_training_queries_do_not_change_the_output_of_the_queries(reference: str) -> None:
    torch.manual_seed(0)
    model = student(replace(TINY, queries=40, reference=reference)).eval()
    text, images = unit(CONCEPTS, WIDTH), torch.randn(2, 3, 48, 48)
    guidance = present(text, [0, 3], [])
    noised = drawn(text, [[0, 3], [1]])[1] if reference != "learned" else None
    with torch.no_grad():
        bare = model(images, None, text, guidance)
        found = model(images, None, text, guidance, TrainingQueries(noised, copies=True))
    for name in ("boxes", "logits", "region"):
        torch.testing.assert_close(getattr(found, name), getattr(bare, name), atol=1e-5, rtol=1e-5)
    assert bare.noised is None
    assert bare.copies is None
    assert found.copies.boxes.shape == bare.boxes.shape
    assert not torch.allclose(found.copies.region, bare.region)
    if noised is None:
        assert found.noised is None
    else:
        assert found.noised.boxes.shape == (2, 2, noised.boxes.shape[1], 4)
        # A new box head changes nothing: a denoising query stays at its first box.
        torch.testing.assert_close(found.noised.boxes[0], noised.boxes, atol=1e-4, rtol=1e-3)


def test_groups_and_copies_do_not_affect_each_other() -> None:
    torch.manual_seed(0)
    model = student(replace(TINY, queries=40, reference="encoder")).eval()
    text, images = unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    _, noised = drawn(text, [[0, 3]])
    half = noised.boxes.shape[1] // 2
    boxes = noised.boxes.clone()
    boxes[:, half:] = boxes[:, half:].flip(1) * 0.5 + 0.1
    with torch.no_grad():
        one, other = (
            model(images, None, text, None, TrainingQueries(replace(noised, boxes=given), copies=True))
            for given in (noised.boxes, boxes)
        )
    torch.testing.assert_close(one.noised.region[:, :, :half], other.noised.region[:, :, :half])
    assert not torch.allclose(one.noised.region[:, :, half:], other.noised.region[:, :, half:])
    torch.testing.assert_close(one.copies.region, other.copies.region)


def test_the_text_changes_the_output_of_a_denoising_query() -> None:
    torch.manual_seed(0)
    model = student(replace(TINY, queries=40, reference="encoder")).eval()
    text, images = unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    _, noised = drawn(text, [[0, 3]])
    with torch.no_grad():
        one, other = (
            model(images, None, text, None, TrainingQueries(replace(noised, words=words))).noised
            for words in (noised.words, noised.words.flip(1))
        )
    assert not torch.allclose(one.region, other.region)


def test_the_loss_of_the_denoising_queries_equals_plain_loops() -> None:
    torch.manual_seed(1)
    text = unit(CONCEPTS, WIDTH)
    targets, noised = drawn(text, [[0, 3, 3], [], [1]])
    output = some_output(3, noised.boxes.shape[1])
    found = denoising_loss(output, noised, pad_targets(targets), LossConfig())
    expected, objects = 0.0, 3
    for layer, b, g, half, m in itertools.product(range(2), range(3), range(2), range(2), range(objects)):
        if m >= len(targets[b]):
            continue
        slot = (g * 2 + half) * objects + m
        for c in range(CONCEPTS):
            fits = half == 0 and c == int(targets[b].concepts[m])
            expected += 2 * slow_focal(float(output.logits[layer, b, slot, c].detach()), fits)
        if half == 0:
            box, goal = output.boxes[layer, b, slot].tolist(), targets[b].boxes[m].tolist()
            expected += 5 * sum(abs(x - y) for x, y in zip(box, goal, strict=True))
            expected += 2 * (1 - slow_giou(box, goal))
    assert float(found.detach()) == pytest.approx(expected / 2, rel=1e-4)
    found.backward()
    padded = ~noised.real[1]
    assert not bool(output.logits.grad[:, 1, padded].any())


@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_gets_a_finite_gradient(objects: bool) -> None:
    torch.manual_seed(2)
    model = student(replace(TINY, reference="guided"))
    text = unit(CONCEPTS, WIDTH)
    targets = [some_targets([0, 3] if objects else []), some_targets([])]
    training = TrainingQueries(noised_queries(pad_targets(targets), text, ON, 7), copies=True)
    guidance = present(text, [0, 3], []) if objects else present(text, [], [])
    rows = torch.tensor([[0, 3], [-1, -1]]) if objects else torch.full((2, 0), -1)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 48, 48), None, text, guidance, training)
    pairs = matched(output, targets, text, repeats=2)
    config = Config(one_to_many=OneToManyConfig(repeats=2))
    found = losses_of(output, targets, pairs, config, contrast=objects, present=rows, training=training)
    found["total"].backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None] == []
    assert all(bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None)
    # Ranks add up their figures, so all ranks must have the same ones.
    assert {"proposals", "denoise", "one_to_many"} <= found.keys()
    assert (float(found["denoise"]) > 0) == objects


def test_denoising_needs_references_at_boxes() -> None:
    with pytest.raises(UserError, match=r"denoise\.groups: found 2, expected 0 with model\.reference l"):
        tiny_config("denoise.groups=2")


@pytest.mark.parametrize("name", ["denoise.groups", "one_to_many.repeats", "denoise.box_noise"])
def test_negative_options_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"option {name}: found -1"):
        tiny_config("model.reference=encoder", f"{name}=-1")


def curve(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith("loss_")} for line in lines]


def test_a_run_with_all_training_queries_resumes_to_the_bit(tmp_path: Path) -> None:
    folder = make_data(tmp_path / "data", photos=6, sizes=((64, 64), (80, 64)))
    config = tiny_config(
        "model.reference=guided",
        "denoise.groups=2",
        "one_to_many.repeats=3",
        "train.epochs=2",
        "guidance.drop=0.3",
        "terms.region_contrast.first_epoch=0",
    )
    train(config, folder, None, tmp_path / "a")
    train(config, folder, None, tmp_path / "b", max_steps=4)
    train(config, folder, None, tmp_path / "b", resume=True)
    lines = curve(tmp_path / "a")
    assert len(lines) == 6
    assert lines == curve(tmp_path / "b")
    assert all({"loss_proposals", "loss_denoise", "loss_one_to_many"} <= line.keys() for line in lines)
    assert any(line["loss_denoise"] > 0 for line in lines)
