"""The sum of all losses: parts, schedule, divisor, precision, and the detection losses against plain
loops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cckt.detector.config.config import Config, changed
from cckt.detector.losses.objective import Objective, first_steps, needed_rows
from cckt.detector.students.contract import Pairs, StudentOutput
from cckt.detector.students.deformable_detr.outputs import DeformableOutput
from cckt.detector.students.targets import Targets
from tests.detector.losses.terms.test_region_contrast import BATCHES, options, pairs_of, slow_contrast
from tests.detector.students.samples import (
    CONCEPTS,
    LAYERS,
    WIDTH,
    losses_of,
    matched,
    of_image,
    slow_focal,
    slow_giou,
    some_output,
    some_targets,
    unit,
)

PARTS = ["class", "l1", "giou", "contrast"]


def gradients(output: DeformableOutput) -> list[Tensor]:
    found = [output.boxes.grad, output.logits.grad, output.region.grad]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


def slow_parts(output: StudentOutput, targets: list[Targets], pairs: Pairs) -> dict[str, float]:
    """Eqs. 16 and 17, one number at a time, not divided."""
    total = dict.fromkeys(["class", "l1", "giou"], 0.0)
    for layer, (b, target) in itertools.product(range(LAYERS), enumerate(targets)):
        own = dict(pairs_of(pairs, layer, b))
        for q, c in itertools.product(range(output.logits.shape[2]), range(CONCEPTS)):
            positive = q in own and int(target.concepts[own[q]]) == c
            total["class"] += 2 * slow_focal(float(output.logits[layer, b, q, c].detach()), positive)
        for q, m in own.items():
            box, goal = output.boxes[layer, b, q].tolist(), target.boxes[m].tolist()
            total["l1"] += 5 * sum(abs(x - y) for x, y in zip(box, goal, strict=True))
            total["giou"] += 2 * (1 - slow_giou(box, goal))
    return total


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_losses_equal_plain_loops(batch: list[tuple[list[int], list[bool] | None]]) -> None:
    torch.manual_seed(0)
    targets = [some_targets(*one) for one in batch]
    output, text = some_output(len(batch)), unit(CONCEPTS, WIDTH)
    pairs = matched(output, targets, text)
    found = losses_of(output, targets, pairs, contrast=True)
    objects = sum(len(one) for one in targets)
    expected = slow_parts(output, targets, pairs)
    expected["contrast"] = slow_contrast(output, targets, pairs, "image")
    for name in PARTS:
        assert float(found[name]) == pytest.approx(expected[name] / objects, rel=1e-4, abs=1e-5), name
    assert float(found["total"].detach()) == pytest.approx(sum(expected.values()) / objects, rel=1e-4)
    found["total"].backward()
    assert all(bool(one.isfinite().all()) for one in gradients(output))


@pytest.mark.parametrize("contrast", [True, False])
@pytest.mark.parametrize("bank", ["instance", "class"])
@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_a_batch_without_objects_learns_only_background(contrast: bool, bank: str, negatives: str) -> None:
    targets, text = [some_targets([]), some_targets([])], unit(CONCEPTS, WIDTH)
    output = some_output(2)
    pairs = matched(output, targets, text)
    config = options(teacher_bank=bank, negatives=negatives)
    found = losses_of(output, targets, pairs, config, contrast=contrast)
    assert float(found["class"]) == pytest.approx(slow_parts(output, targets, pairs)["class"], rel=1e-4)
    assert [float(found[name]) for name in ("l1", "giou", "contrast")] == [0, 0, 0]
    found["total"].backward()
    boxes, logits, region = gradients(output)
    assert not bool(boxes.any())
    assert not bool(region.any())
    assert bool(logits.all())


def test_a_term_is_zero_before_its_first_epoch_and_keeps_the_graph() -> None:
    targets, text, output = [some_targets([0, 1])], unit(CONCEPTS, WIDTH), some_output(1)
    found = losses_of(output, targets, matched(output, targets, text), contrast=False)
    assert float(found["contrast"]) == 0
    found["total"].backward()
    assert not bool(gradients(output)[2].any())


def test_a_term_of_weight_0_is_absent_and_keeps_the_graph() -> None:
    targets, text, output = [some_targets([0, 1])], unit(CONCEPTS, WIDTH), some_output(1)
    config = options(weight=0.0)
    found = losses_of(output, targets, matched(output, targets, text), config, contrast=True)
    assert "contrast" not in found
    found["total"].backward()
    assert not bool(gradients(output)[2].any())
    assert needed_rows(config) == []
    assert needed_rows(Config()) == ["crop"]


def test_terms_start_at_the_first_step_of_their_epoch() -> None:
    config = options(first_epoch=3)
    assert first_steps(config, 7) == {21}
    objective = Objective(config, WIDTH)
    assert [len(objective.active(epoch)) for epoch in (0, 2, 3, 9)] == [0, 0, 1, 1]
    assert not objective.needs_all_ranks(2)


@pytest.mark.parametrize(
    ("values", "extra", "together"),
    [
        ({}, False, False),
        ({"negatives": "batch"}, False, True),
        ({"teacher_bank": "class"}, False, True),
        ({}, True, True),
        ({"weight": 0.0, "negatives": "batch"}, True, False),
    ],
)
def test_ranks_work_together_only_if_images_are_contrasted(
    values: dict[str, object], extra: bool, together: bool
) -> None:
    objective = Objective(options(first_epoch=0, **values), WIDTH, extra_regions=extra)
    assert objective.needs_all_ranks(0) == together


def test_weights_and_divisor_scale() -> None:
    torch.manual_seed(1)
    targets, text, output = [some_targets([0, 1]), some_targets([2])], unit(CONCEPTS, WIDTH), some_output(2)
    pairs = matched(output, targets, text)
    base = losses_of(output, targets, pairs, contrast=True)
    world = losses_of(output, targets, pairs, contrast=True, divisor=6)
    # One object on five ranks: their mean of losses is divided by it, not by five.
    least = losses_of(output, targets, pairs, contrast=True, divisor=torch.tensor(0.2))
    for name in [*PARTS, "total"]:
        assert float(world[name].detach()) == pytest.approx(float(base[name].detach()) / 2)
        assert float(least[name].detach()) == pytest.approx(float(base[name].detach()) * 15)
    for name in PARTS:
        section, field = (
            ("terms.region_contrast", "weight") if name == "contrast" else ("loss", f"loss_{name}")
        )
        part = Config().terms["region_contrast"] if name == "contrast" else Config().loss
        twice = changed(Config(), section, **{field: 2 * getattr(part, field)})
        found = losses_of(output, targets, pairs, twice, contrast=True)
        for other in PARTS:
            assert float(found[other]) == pytest.approx(float(base[other]) * (2 if other == name else 1))


def test_batched_is_the_sum_of_single_images() -> None:
    torch.manual_seed(2)
    targets, text = [some_targets([0, 3]), some_targets([]), some_targets([1, 1, 2])], unit(CONCEPTS, WIDTH)
    output = some_output(3)
    joint = losses_of(output, targets, matched(output, targets, text), contrast=True, divisor=1)
    total = 0.0
    for b in range(3):
        single, own = of_image(output, b), targets[b : b + 1]
        found = losses_of(single, own, matched(single, own, text), contrast=True, divisor=1)
        total += float(found["total"].detach())
    assert float(joint["total"].detach()) == pytest.approx(total, rel=1e-5)


def test_half_precision_outputs_give_float32_losses() -> None:
    torch.manual_seed(6)
    targets, text, output = [some_targets([0, 1])], unit(CONCEPTS, WIDTH), some_output(1)
    pairs = matched(output, targets, text)
    rough = replace(output, logits=output.logits.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = losses_of(rough, targets, pairs, contrast=True)
    assert all(one.dtype == torch.float32 for one in found.values())
    exact = losses_of(output, targets, pairs, contrast=True)
    assert float(found["contrast"]) == float(exact["contrast"])
