"""One-to-many matching of copies, against all assignments; cells that choose queries learn to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from cckt.detector.config.config import Config, LossConfig, MatcherConfig, OneToManyConfig, changed
from cckt.detector.config.recipes import RECIPES, recipe
from cckt.detector.students.build import build_student
from cckt.detector.students.detection_loss import detection_losses
from cckt.detector.students.matching import matching_costs
from cckt.detector.students.targets import ProposalBoxes, Targets, pad_targets
from tests.detector.students.samples import (
    CONCEPTS,
    QUERIES,
    WIDTH,
    losses_of,
    matched,
    some_output,
    some_targets,
    unit,
)


def test_an_object_is_matched_with_several_copies() -> None:
    torch.manual_seed(1)
    text, targets = unit(CONCEPTS, WIDTH), [some_targets([0, 3]), some_targets([]), some_targets([1])]
    output = replace(some_output(3), copies=some_output(3))
    found = matched(output, targets, text, repeats=2)
    assert torch.equal(found.regions, matched(replace(output, copies=None), targets, text).regions)
    assert found.copies is not None
    costs = matching_costs(output.copies, pad_targets(targets), text, MatcherConfig(), 0.07)
    for layer, (b, target) in itertools.product(range(2), enumerate(targets)):
        queries, objects = found.copies.of_image(layer, b)
        assert len(set(queries.tolist())) == len(queries) == min(QUERIES, 2 * len(target))
        assert sorted(objects.tolist()) == sorted(list(range(len(target))) * 2)
        paid = sum(float(costs[layer, b, q, m]) for q, m in zip(queries, objects, strict=True))
        best = min(
            (
                sum(float(costs[layer, b, q, k % len(target)]) for k, q in enumerate(order))
                for order in itertools.permutations(range(QUERIES), 2 * len(target))
            ),
            default=0.0,
        )
        assert paid == pytest.approx(best, abs=1e-4)
    twice = Config(one_to_many=OneToManyConfig(repeats=2))
    parts = losses_of(output, targets, found, twice, contrast=False)
    copies = detection_losses(output.copies, pad_targets(targets), found.copies, LossConfig())
    assert float(parts["one_to_many"].detach()) == pytest.approx(
        sum(float(one.detach()) for one in copies.values()) / 3 / 2
    )
    off = Config(one_to_many=OneToManyConfig(repeats=2, weight=0.0))
    assert float(losses_of(output, targets, found, off, contrast=False)["one_to_many"]) == 0


def test_more_repeats_than_copies_match_each_copy_once() -> None:
    text, targets = unit(CONCEPTS, WIDTH), [some_targets([0, 3])]
    found = matched(replace(some_output(1), copies=some_output(1)), targets, text, repeats=9).copies
    assert found is not None
    assert found.regions.shape == (2, QUERIES)
    assert set(found.objects.flatten().tolist()) <= {0, 1}


WITH_CELLS = [
    name
    for name in RECIPES
    if recipe(name).model.student == "deformable_detr" and recipe(name).model.reference != "learned"
]


@pytest.mark.parametrize("name", WITH_CELLS)
def test_cells_that_choose_the_queries_learn_objectness(name: str) -> None:
    """Also where no class head is trained: HD-OVD's classes have a head of their own (loss.loss_class 0)."""
    config = changed(recipe(name), "model", backbone="test_resnet", backbone_weights="none")
    student = build_student(config, 32, pretrained=False).train()
    text = torch.nn.functional.normalize(torch.randn(5, 32), dim=1)
    proposals = None
    if config.data.proposals:
        proposals = ProposalBoxes(torch.tensor([[0.2, 0.2, 0.2, 0.2]]), torch.tensor([True]))
    targets = pad_targets([Targets(torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([1]), {}, proposals)])
    training = student.training_inputs(targets, text)
    output = student(torch.randn(1, 3, 64, 64), None, text, None, training)
    pairs = student.match(output, targets, text)
    losses = student.detection_loss(output, targets, pairs, torch.tensor([[1]]), training)
    losses.auxiliary["proposals"].backward()
    assert student.proposals.objectness.weight.grad.abs().max() > 0
