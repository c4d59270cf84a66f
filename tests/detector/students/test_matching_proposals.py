"""Matching of proposals: the cost against plain arithmetic, and the second assignment against brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cckt.detector.config.config import Config, LossConfig, MatcherConfig, changed
from cckt.detector.students.contract import Pairs
from cckt.detector.students.deformable_detr import criterion
from cckt.detector.students.deformable_detr.outputs import EncoderCells
from cckt.detector.students.detection_loss import objectness_loss
from cckt.detector.students.matching import Follower, assign, class_agnostic_costs
from cckt.detector.students.targets import PaddedTargets, ProposalBoxes, Targets, pad_targets
from tests.detector.students.samples import (
    CONCEPTS,
    LAYERS,
    WIDTH,
    slow_focal,
    slow_giou,
    some_boxes,
    some_output,
    some_targets,
    unit,
)


def with_proposals(target: Targets, count: int, distilled: int) -> Targets:
    boxes = ProposalBoxes(some_boxes(count), torch.arange(count) < distilled)
    return replace(target, proposals=boxes)


def corners(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


@pytest.mark.parametrize("objectness", [True, False])
def test_the_cost_equals_plain_arithmetic(objectness: bool) -> None:
    """Eqs. 14 and 15; the L1 distance is of corners."""
    torch.manual_seed(0)
    output, goals = some_output(2), some_boxes(2, 3)
    if objectness:
        output = replace(output, objectness=torch.randn(output.boxes.shape[:3]))
    found = class_agnostic_costs(output, goals, MatcherConfig())
    for layer, b, q, at in itertools.product(range(LAYERS), range(2), range(4), range(3)):
        box, goal = output.boxes[layer, b, q].tolist(), goals[b, at].tolist()
        cost = 5 * sum(abs(x - y) for x, y in zip(corners(box), corners(goal), strict=True))
        cost -= 2 * slow_giou(box, goal)
        if output.objectness is not None:
            p = 1 / (1 + math.exp(-float(output.objectness[layer, b, q])))
            cost += 2 * (-0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p))
        assert float(found[layer, b, q, at]) == pytest.approx(cost, rel=1e-4, abs=1e-5)
    assert class_agnostic_costs(output, goals[:, :0], MatcherConfig()).shape == (LAYERS, 2, 4, 0)


def best(cost: Tensor, regions: Sequence[int], objects: int) -> float:
    """Return the smallest cost of an assignment, by trying all."""
    if objects <= len(regions):
        tries = itertools.permutations(regions, objects)
        return min(sum(float(cost[q, m]) for m, q in enumerate(one)) for one in tries)
    tries = itertools.permutations(range(objects), len(regions))
    return min(sum(float(cost[q, m]) for q, m in zip(regions, one, strict=True)) for one in tries)


@pytest.mark.parametrize(
    ("counts", "more"), [([2, 0, 4], [3, 5, 2]), ([0, 0, 0], [0, 0, 0]), ([1, 5, 5], [0, 1, 9])]
)
def test_proposals_take_what_objects_leave(counts: list[int], more: list[int]) -> None:
    torch.manual_seed(1)
    costs, later, regions = torch.randn(2, 3, 5, max(counts)), torch.randn(2, 3, 5, max(more)), 5
    tables = [costs, torch.randn(1, 3, 7, max(counts))]
    found, other = assign(tables, counts, [1, 1], [Follower(later, more)])
    alone, other_alone = assign(tables, counts, [1, 1])
    assert alone.proposals is None
    assert other.proposals is None
    for one, two in ((found, alone), (other, other_alone)):
        assert torch.equal(one.regions, two.regions)
        assert torch.equal(one.objects, two.objects)
        assert torch.equal(one.images, two.images)
    pairs = found.proposals
    assert pairs is not None
    for layer, b in itertools.product(range(2), range(3)):
        taken = found.of_image(layer, b)[0].tolist()
        free = [q for q in range(regions) if q not in taken]
        chosen, goals = (one.tolist() for one in pairs.of_image(layer, b))
        assert set(chosen) <= set(free)
        assert len(set(chosen)) == len(chosen) == len(set(goals)) == min(len(free), more[b])
        cost = sum(float(later[layer, b, q, m]) for q, m in zip(chosen, goals, strict=True))
        assert cost == pytest.approx(best(later[layer, b], free, more[b]), abs=1e-5)


def test_deformable_detr_matches_distilled_proposals_to_free_queries() -> None:
    torch.manual_seed(2)
    targets = pad_targets(
        [with_proposals(some_targets([0, 3]), 4, 1), with_proposals(some_targets([]), 3, 3)]
    )
    output = replace(some_output(2), objectness=torch.randn(LAYERS, 2, 4))
    text = unit(CONCEPTS, WIDTH)
    config = Config()
    pairs = criterion.match(output, targets, text, config)
    plain = criterion.match(output, replace(targets, proposals=None), text, config)
    assert plain.proposals is None
    assert torch.equal(pairs.regions, plain.regions)
    assert pairs.proposals is not None
    assert pairs.proposals.images.tolist() == [0, 1, 1, 1]
    agnostic = changed(changed(config, "model", objectness=True), "matcher", class_agnostic=True)
    found = criterion.match(output, targets, text, agnostic)
    cost = class_agnostic_costs(output, targets.boxes, MatcherConfig())
    for layer in range(LAYERS):
        chosen, goals = found.of_image(layer, 0)
        total = sum(float(cost[layer, 0, q, m]) for q, m in zip(chosen, goals, strict=True))
        assert total == pytest.approx(best(cost[layer, 0], range(4), 2), abs=1e-5)


def padded() -> PaddedTargets:
    return pad_targets([with_proposals(some_targets([0, 3]), 3, 1), with_proposals(some_targets([]), 1, 1)])


@pytest.mark.parametrize("learns", [False, True])
def test_cells_learn_all_proposals_if_asked(learns: bool) -> None:
    """All proposals, distilled or not, are class-agnostic positives of cells, boxes included."""
    torch.manual_seed(3)
    targets, text = padded(), unit(CONCEPTS, WIDTH)
    cells = EncoderCells(torch.randn(2, 6), some_boxes(2, 6))
    output = replace(some_output(2), cells=cells)
    config = changed(Config(), "loss", cells_learn_proposals=learns)
    pairs = criterion.match(output, targets, text, config)
    assert pairs.cells is not None
    found = float(criterion.cell_loss(cells, targets, pairs.cells, None, config.loss))
    matched = {(0, int(q)): targets.boxes[0, m] for q, m in zip(*pairs.cells.of_image(0, 0), strict=True)}
    more = pairs.cells.proposals
    assert (more is not None) == learns
    assert targets.proposals is not None
    if more is not None:
        assert more.images.tolist() == [0, 0, 0, 1]
        for b in range(2):
            for q, m in zip(*more.of_image(0, b), strict=True):
                assert (b, int(q)) not in matched
                matched[b, int(q)] = targets.proposals.boxes[b, m]
    expected = 0.0
    for b, q in itertools.product(range(2), range(6)):
        expected += 2 * slow_focal(float(cells.objectness[b, q]), (b, q) in matched)
        if (b, q) in matched:
            box, goal = cells.boxes[b, q].tolist(), matched[b, q].tolist()
            expected += 5 * sum(abs(x - y) for x, y in zip(box, goal, strict=True))
            expected += 2 * (1 - slow_giou(box, goal))
    assert found == pytest.approx(expected, rel=1e-4)


def test_objectness_learns_objects_and_proposals() -> None:
    """Eq. 47; a region that only fills the tensor is neither positive nor negative."""
    torch.manual_seed(4)
    logits = torch.randn(1, 2, 4)
    table = torch.tensor([[1, 0]])
    more = Pairs(torch.tensor([1]), torch.tensor([[2]]), torch.tensor([[0]]))
    pairs = Pairs(torch.tensor([0, 1]), table, table, more)
    kept = torch.ones(2, 4, dtype=torch.bool)
    kept[0, 3] = False
    found = objectness_loss(logits, pairs, LossConfig(), kept)
    positive = {(0, 1), (1, 0), (1, 2)}
    expected = sum(
        2 * slow_focal(float(logits[0, b, q]), (b, q) in positive)
        for b, q in itertools.product(range(2), range(4))
        if (b, q) != (0, 3)
    )
    assert float(found) == pytest.approx(expected, rel=1e-4)
