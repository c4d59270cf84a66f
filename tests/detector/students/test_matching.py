"""Costs and assignment against plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from cckt.detector.config.config import Config, MatcherConfig, changed
from cckt.detector.students import matching
from cckt.detector.students.boxes import generalised_iou
from cckt.detector.students.deformable_detr.outputs import DeformableOutput
from cckt.detector.students.matching import matching_config, matching_costs
from cckt.detector.students.targets import Targets, pad_targets
from tests.detector.students.samples import (
    CONCEPTS,
    LAYERS,
    QUERIES,
    TAU,
    WIDTH,
    matched,
    of_image,
    slow_giou,
    some_boxes,
    unit,
)


def some_targets(count: int) -> Targets:
    return Targets(some_boxes(count), torch.randint(0, CONCEPTS, (count,)))


def some_output(batch: int) -> DeformableOutput:
    shape = (LAYERS, batch, QUERIES)
    return DeformableOutput(some_boxes(*shape), torch.randn(*shape, CONCEPTS) * 2, unit(*shape, WIDTH))


def slow_cost(box: Tensor, logits: Tensor, region: Tensor, goal: Tensor, concept: int, text: Tensor) -> float:
    """Eq. 14 for one query and one object."""
    p = 1 / (1 + math.exp(-float(logits[concept])))
    focal = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
    similarity = 1 / (1 + math.exp(-float(region @ text[concept]) / TAU))
    l1 = sum(abs(x - y) for x, y in zip(box.tolist(), goal.tolist(), strict=True))
    return 2 * focal - similarity + 5 * l1 - 2 * slow_giou(box.tolist(), goal.tolist())


def test_images_without_objects_have_no_pairs() -> None:
    found = matched(some_output(2), [some_targets(0), some_targets(0)], unit(CONCEPTS, WIDTH))
    assert found.images.shape == (0,)
    assert found.regions.shape == found.objects.shape == (LAYERS, 0)


def test_costs_equal_plain_loops() -> None:
    torch.manual_seed(0)
    output, targets, text = some_output(3), [some_targets(n) for n in (2, 0, 3)], unit(CONCEPTS, WIDTH)
    costs = matching_costs(output, pad_targets(targets), text, MatcherConfig(), TAU)
    assert costs.shape == (LAYERS, 3, QUERIES, 3)
    for layer, b, q in itertools.product(range(LAYERS), range(3), range(QUERIES)):
        for m in range(len(targets[b])):
            expected = slow_cost(
                output.boxes[layer, b, q],
                output.logits[layer, b, q],
                output.region[layer, b, q],
                targets[b].boxes[m],
                int(targets[b].concepts[m]),
                text,
            )
            assert float(costs[layer, b, q, m]) == pytest.approx(expected, abs=1e-4)


def test_the_assignment_has_the_lowest_cost() -> None:
    torch.manual_seed(1)
    output, targets, text = some_output(2), [some_targets(3), some_targets(1)], unit(CONCEPTS, WIDTH)
    costs = matching_costs(output, pad_targets(targets), text, MatcherConfig(), TAU)
    found = matched(output, targets, text)
    assert found.images.tolist() == [0, 0, 0, 1]
    for layer, b in itertools.product(range(LAYERS), range(2)):
        queries, objects = found.of_image(layer, b)
        count = len(targets[b])
        assert sorted(objects.tolist()) == list(range(count))
        best = min(
            sum(float(costs[layer, b, q, m]) for m, q in enumerate(order))
            for order in itertools.permutations(range(QUERIES), count)
        )
        paid = sum(float(costs[layer, b, q, m]) for q, m in zip(queries, objects, strict=True))
        assert paid == pytest.approx(best, abs=1e-4)


def test_a_batch_equals_its_images_one_by_one() -> None:
    torch.manual_seed(2)
    output, targets, text = some_output(3), [some_targets(n) for n in (3, 0, 2)], unit(CONCEPTS, WIDTH)
    joint = matched(output, targets, text)
    for b in range(3):
        single = matched(of_image(output, b), targets[b : b + 1], text)
        for layer in range(LAYERS):
            for mine, other in zip(joint.of_image(layer, b), single.of_image(layer, 0), strict=True):
                assert torch.equal(mine, other)


def test_with_more_objects_than_queries_each_query_is_matched_once() -> None:
    found = matched(some_output(1), [some_targets(7)], unit(CONCEPTS, WIDTH))
    assert found.regions.shape == (LAYERS, QUERIES)
    for layer in range(LAYERS):
        assert sorted(found.regions[layer].tolist()) == list(range(QUERIES))
        assert len(set(found.objects[layer].tolist())) == QUERIES


def test_worker_threads_give_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    output, targets, text = some_output(2), [some_targets(3), some_targets(2)], unit(CONCEPTS, WIDTH)
    single = matched(output, targets, text)
    monkeypatch.setattr(matching, "THREADED_CELLS", 0)
    threaded = matched(output, targets, text)
    assert torch.equal(single.regions, threaded.regions)
    assert torch.equal(single.objects, threaded.objects)


def test_non_finite_costs_are_matched() -> None:
    output = some_output(1)
    broken = DeformableOutput(output.boxes * math.nan, output.logits + math.inf, output.region)
    found = matched(broken, [some_targets(3)], unit(CONCEPTS, WIDTH))
    assert found.regions.shape == (LAYERS, 3)


@pytest.mark.parametrize("name", ["cost_class", "cost_similarity", "cost_l1", "cost_giou"])
def test_each_weight_scales_only_its_part(name: str) -> None:
    torch.manual_seed(3)
    output, targets, text = some_output(1), pad_targets([some_targets(2)]), unit(CONCEPTS, WIDTH)
    none = dict.fromkeys(["cost_class", "cost_similarity", "cost_l1", "cost_giou"], 0.0)
    full = matching_costs(output, targets, text, MatcherConfig(), TAU)
    parts = {
        one: matching_costs(
            output, targets, text, MatcherConfig(**{**none, one: getattr(MatcherConfig(), one)}), TAU
        )
        for one in none
    }
    torch.testing.assert_close(sum(parts.values()), full)
    twice = matching_costs(
        output, targets, text, MatcherConfig(**{**none, name: 2 * getattr(MatcherConfig(), name)}), TAU
    )
    torch.testing.assert_close(twice, 2 * parts[name])


def test_giou_of_boxes_by_hand() -> None:
    same = torch.tensor([0.5, 0.5, 0.2, 0.4])
    assert float(generalised_iou(same, same)) == pytest.approx(1.0, abs=1e-5)
    apart = torch.tensor([[0.1, 0.5, 0.2, 1.0], [0.9, 0.5, 0.2, 1.0]])
    assert float(generalised_iou(apart[0], apart[1])) == pytest.approx(0.4 / 1.0 - 1)
    flat = torch.zeros(4, requires_grad=True)
    value = generalised_iou(flat, torch.zeros(4))
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())


def test_an_untrained_region_embedding_does_not_decide_matches() -> None:
    config = Config()
    assert matching_config(config, region_trained=True) is config
    assert matching_config(config, region_trained=False).matcher.cost_similarity == 0
    assert matching_config(config, region_trained=False).matcher.cost_class == config.matcher.cost_class
    always = changed(config, "matcher", similarity_from="start")
    assert matching_config(always, region_trained=False) is always
