"""The contrast with a bank of cached crops, and what its sums are divided by, against plain loops."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, changed
from cckt.detector.config.terms import RegionContrastConfig
from cckt.detector.losses.objective import Objective, check_terms
from cckt.detector.losses.terms.region_contrast import RegionContrast
from cckt.detector.losses.terms.term import ONE_RANK, RunInputs, StepInputs
from cckt.detector.students.contract import DetectionLoss, Pairs, StudentOutput
from cckt.detector.students.deformable_detr import criterion
from cckt.detector.students.targets import Targets, pad_targets
from tests.detector.losses.terms.test_region_contrast import pairs_of
from tests.detector.students.samples import (
    CONCEPTS,
    LAYERS,
    TAU,
    WIDTH,
    matched,
    slow_cross_entropy,
    some_output,
    some_targets,
    unit,
)

EMBEDDED = [([0, 3, 1], [True, False, True]), ([2, 2], [False, True]), ([], None)]
"""Three of five objects have an embedding."""


def slow_bank_contrast(
    output: StudentOutput,
    targets: list[Targets],
    pairs: Pairs,
    bank: Tensor,
    have: list[bool],
    negatives: str,
) -> float:
    """Eqs. 19 to 22 with one crop of every class: all classes that have one are candidates."""
    total = 0.0
    classes = [c for c in range(CONCEPTS) if have[c]]
    for layer, (b, target) in itertools.product(range(LAYERS), enumerate(targets)):
        images = [b] if negatives == "image" else list(range(len(targets)))
        regions = [(p, q) for p in images for q in range(output.region.shape[2])]
        for q, m in pairs_of(pairs, layer, b):
            c = int(target.concepts[m])
            if have[c]:
                e = output.region[layer, b, q].detach()
                forth = [float(bank[c] @ output.region[layer, p, j].detach()) / TAU for p, j in regions]
                back = [float(bank[k] @ e) / TAU for k in classes]
                total += slow_cross_entropy(forth, regions.index((b, q))) / 2
                total += slow_cross_entropy(back, classes.index(c)) / 2
    return total


def prepared_term(options: RegionContrastConfig, bank: Tensor, have: Tensor) -> RegionContrast:
    term = RegionContrast(options, TAU, WIDTH)
    term.prepare(RunInputs(unit(CONCEPTS, WIDTH), class_crops=lambda seed: (bank, have)))
    return term


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_a_bank_of_every_class_equals_plain_loops(negatives: str) -> None:
    torch.manual_seed(5)
    targets = [some_targets([0, 0, 3], [False, True, False]), some_targets([]), some_targets([3, 4])]
    output, text = some_output(3), unit(CONCEPTS, WIDTH)
    pairs = matched(output, targets, text)
    bank, have = unit(CONCEPTS, WIDTH), torch.ones(CONCEPTS, dtype=torch.bool)
    have[4], bank[4] = False, math.nan
    options = RegionContrastConfig(teacher_bank="cache", negatives=negatives)  # type: ignore[arg-type]
    term = prepared_term(options, bank, have)
    padded = pad_targets(targets)
    found = term(StepInputs(output, pairs, DetectionLoss({}), padded))["contrast"]
    expected = slow_bank_contrast(output, targets, pairs, bank, have.tolist(), negatives)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)
    found.backward()
    assert output.region.grad is not None
    assert bool(output.region.grad.isfinite().all())
    assert float(term.counted(padded, ONE_RANK)) == 4  # all objects but the one of class 4


def test_a_bank_without_objects_is_zero() -> None:
    output, targets = some_output(1), [some_targets([])]
    options = RegionContrastConfig(teacher_bank="cache")
    term = prepared_term(options, unit(CONCEPTS, WIDTH), torch.ones(CONCEPTS, dtype=torch.bool))
    pairs = matched(output, targets, unit(CONCEPTS, WIDTH))
    found = term(StepInputs(output, pairs, DetectionLoss({}), pad_targets(targets)))["contrast"]
    assert float(found.detach()) == 0


def test_a_bank_draws_once_per_step_from_the_generator_of_torch() -> None:
    seeds: list[int] = []

    def crops(seed: int) -> tuple[Tensor, Tensor]:
        seeds.append(seed)
        return unit(CONCEPTS, WIDTH), torch.ones(CONCEPTS, dtype=torch.bool)

    term = RegionContrast(RegionContrastConfig(teacher_bank="cache", divisor="objects"), TAU, WIDTH)
    term.prepare(RunInputs(unit(CONCEPTS, WIDTH), class_crops=crops))
    output, targets = some_output(1), [some_targets([0, 1])]
    pairs = matched(output, targets, unit(CONCEPTS, WIDTH))
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        term(StepInputs(output, pairs, DetectionLoss({}), pad_targets(targets)))
    assert seeds[0] == seeds[1] != seeds[2]


def test_proposals_have_no_class_for_a_bank() -> None:
    config = changed(Config(), "terms.region_contrast", teacher_bank="cache", proposals=True)
    with pytest.raises(UserError, match=r"terms\.region_contrast\.teacher_bank: found 'cache'"):
        check_terms(changed(config, "data", proposals=5))


@pytest.mark.parametrize("bank", ["instance", "class"])
def test_the_loss_is_the_mean_over_objects_with_an_embedding(bank: str) -> None:
    torch.manual_seed(0)
    targets = [some_targets(*one) for one in EMBEDDED]
    output, text = some_output(3), unit(CONCEPTS, WIDTH)
    pairs, padded = matched(output, targets, text), pad_targets(targets)
    values = {}
    for divisor in ("embedded", "objects"):
        config = changed(Config(), "terms.region_contrast", first_epoch=0, divisor=divisor, teacher_bank=bank)
        detection = criterion.detection_loss(output, padded, pairs, None, None, config)
        torch.manual_seed(1)  # of the draw of the class bank
        values[divisor] = Objective(config, WIDTH)(output, pairs, detection, padded, epoch=0)
    counted = 3 if bank == "instance" else 4  # the second object of class 2 serves the first one
    ratio = float(values["embedded"]["contrast"]) / float(values["objects"]["contrast"])
    assert ratio == pytest.approx(5 / counted)
    for name in ("class", "l1", "giou"):
        assert float(values["embedded"][name]) == float(values["objects"][name])


def test_additions_to_other_losses_are_divided_alike() -> None:
    """The contrast of encoder cells is added to the loss "proposals"."""

    class Fixed(RegionContrast):
        def forward(self, step: StepInputs) -> dict[str, Tensor]:
            return {"contrast": torch.tensor(6.0), "proposals": torch.tensor(9.0)}

    output, targets = some_output(3), [some_targets(*one) for one in EMBEDDED]
    objective = Objective(changed(Config(), "terms.region_contrast", first_epoch=0), WIDTH)
    objective.terms["region_contrast"] = Fixed(RegionContrastConfig(first_epoch=0), TAU, WIDTH)
    detection = DetectionLoss({}, {"proposals": torch.tensor(10.0)})
    pairs = matched(output, targets, unit(CONCEPTS, WIDTH))
    found = objective(output, pairs, detection, pad_targets(targets), epoch=0)
    assert float(found["contrast"]) == pytest.approx(6 / 3)
    assert float(found["proposals"]) == pytest.approx(10 / 5 + 9 / 3)
    given = objective(
        output,
        pairs,
        replace(detection),
        pad_targets(targets),
        epoch=0,
        divisor=10.0,
        counted={"contrast": torch.tensor(12.0)},
    )
    assert float(given["contrast"]) == pytest.approx(6 / 12)
    assert float(given["proposals"]) == pytest.approx(10 / 10 + 9 / 12)
