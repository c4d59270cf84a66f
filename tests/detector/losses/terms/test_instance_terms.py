"""Instance contrast and relation against plain loops over the pairs, and what must not change them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cckt.detector.config.terms import InstanceContrastConfig, InstanceRelationConfig
from cckt.detector.losses.terms.instance_contrast import InstanceContrast
from cckt.detector.losses.terms.instance_relation import InstanceRelation
from cckt.detector.losses.terms.term import StepInputs, Term
from cckt.detector.students.contract import Pairs
from tests.detector.losses.hd_samples import (
    EMPTY,
    MOST,
    ONE_PAIR,
    USUAL,
    Scene,
    entries,
    on_ranks,
    prepared,
    sizes,
    slow_contrast,
    slow_relation,
    some_scene,
)
from tests.detector.students.samples import LAYERS

INVALID = [(0, "crop", 1), (0, "proposal_crop", 2)]
KINDS = {
    "contrast": (InstanceContrast, InstanceContrastConfig(weight=1.0, queue=7)),
    "relation": (InstanceRelation, InstanceRelationConfig(weight=1.0)),
}


def value(term: Term, step: StepInputs) -> Tensor:
    (loss,) = term(step).values()
    assert isinstance(loss, Tensor)
    return loss


def pairs_of_layer(scene: Scene, layer: int, regions: str, gate: float) -> list[tuple[Tensor, Tensor]]:
    """Eqs. 16 and 17: (student, teacher) of each pair, by image, objects before proposals."""
    found = {}
    for proposal, pairs in ((False, scene.pairs), (True, scene.pairs.proposals)):
        if regions != "both" and (regions == "proposals") != proposal:
            continue
        for b, region, at in entries(pairs, layer):
            rows = scene.targets[b].teacher["proposal_crop" if proposal else "crop"]
            near = scene.overlap(layer, b, region, scene.image(b, proposal)[at]) > gate
            if bool(rows.valid[at]) and (near or not gate):
                found[b, proposal, at] = (scene.output.region[layer, b, region].detach(), rows.values[at])
    return [found[key] for key in sorted(found)]


@pytest.mark.parametrize("gate", [0.0, 0.5])
@pytest.mark.parametrize("regions", ["both", "objects", "proposals"])
@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_equal_plain_loops(kind: str, regions: Any, gate: float) -> None:
    term_class, options = KINDS[kind]
    options = replace(options, regions=regions, gate=gate)  # type: ignore[type-var]
    term = prepared(term_class, options, some_scene(*USUAL))
    past: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(LAYERS)]
    gated = False
    for seed in range(3):
        scene = some_scene(*USUAL, seed, invalid=INVALID)
        expected = 0.0
        for layer in range(LAYERS):
            pairs = pairs_of_layer(scene, layer, regions, gate)
            gated |= len(pairs) < len(pairs_of_layer(scene, layer, regions, 0.0))
            students, teachers = [one for one, _ in pairs], [one for _, one in pairs]
            if len(pairs) >= 2:
                if kind == "contrast":
                    old = [one for one, _ in past[layer]], [one for _, one in past[layer]]
                    expected += slow_contrast(students, teachers, *old, 20)
                    past[layer] = [*past[layer], *pairs][-7:]
                else:
                    expected += slow_relation(students, teachers, 5, 10)
        loss = value(term, scene.step())
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        loss.backward()  # type: ignore[no-untyped-call]
        assert scene.output.region.grad is not None
        assert bool(scene.output.region.grad.isfinite().all())
        assert scene.output.boxes.grad is None
    assert gated == (gate > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [EMPTY, ONE_PAIR], ids=["nothing", "one pair"])
def test_without_two_pairs_the_loss_is_0_and_nothing_is_remembered(kind: str, case: Any) -> None:
    scene = some_scene(*case, near=1.0)
    term = prepared(*KINDS[kind], scene)
    loss = value(term, scene.step())
    assert float(loss.detach()) == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert scene.output.region.grad is not None
    assert not bool(scene.output.region.grad.any())
    assert not any(bool(one.any()) for one in term.state_dict().values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_images_changes_nothing(kind: str) -> None:
    scene = some_scene(*USUAL)
    losses = [
        value(prepared(*KINDS[kind], scene), scene.subset(order).step()) for order in ([0, 1, 2], [2, 0, 1])
    ]
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-5)
    assert float(losses[0].detach()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_of_several_regions_is_their_mean(kind: str) -> None:
    """Eq. 21, as with RoIs: object 0 of image 0 has two more regions."""
    scene = some_scene(*USUAL, near=1.0)
    pairs = scene.pairs
    more = [torch.cat([one, torch.zeros(LAYERS, 2).long()], 1) for one in (pairs.regions, pairs.objects)]
    used = {region for b, region, _ in entries(pairs, 0) + entries(pairs.proposals, 0) if b == 0}
    used |= {region for b, region, _ in entries(pairs, 1) + entries(pairs.proposals, 1) if b == 0}
    free = [region for region in range(8) if region not in used][:2]
    if len(free) < 2:
        free = [6, 7]
    more[0][:, -2:] = torch.tensor(free)
    scene.pairs = Pairs(torch.cat([pairs.images, torch.zeros(2).long()]), *more, pairs.proposals)
    term_class, options = KINDS[kind]
    options = replace(options, gate=0.0)  # type: ignore[type-var]
    found = value(prepared(term_class, options, scene), scene.step())
    expected = 0.0
    for layer in range(LAYERS):
        grouped: dict[tuple[bool, int, int], list[Tensor]] = {}
        for proposal, own in ((False, scene.pairs), (True, scene.pairs.proposals)):
            for b, region, at in entries(own, layer):
                grouped.setdefault((proposal, b, at), []).append(
                    scene.output.region[layer, b, region].detach()
                )
        students, teachers = [], []
        for (proposal, b, at), regions in grouped.items():
            mean = torch.stack(regions).mean(0)
            students.append(mean / mean.norm())
            name = "proposal_crop" if proposal else "crop"
            teachers.append(scene.targets[b].teacher[name].values[at])
        if kind == "contrast":
            expected += slow_contrast(students, teachers, [], [], 20)
        else:
            expected += slow_relation(students, teachers, 5, 10)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_with_all_negatives_equal_one(kind: str) -> None:
    """Loss, gradients and what is remembered, over two steps."""
    term_class, options = KINDS[kind]
    options = replace(options, negatives="world", gate=0.0)  # type: ignore[type-var]
    scene = some_scene([[0, 3], [2], [1, 1, 4], []], [[5, 6, 7, 8], [6], [], [7, 8]])
    alone, ranks = prepared(term_class, options, scene), [prepared(term_class, options, scene) for _ in "ab"]
    padding = sizes(scene)
    for seed in range(2):
        scene = some_scene([[0, 3], [2], [1, 1, 4], []], [[5, 6, 7, 8], [6], [], [7, 8]], seed)
        whole = value(alone, scene.step())
        (expected,) = torch.autograd.grad(whole, scene.output.region)
        halves = [scene.subset([0, 1]), scene.subset([2, 3])]

        def act(number: int, halves: list[Scene] = halves) -> Any:
            return lambda rank: value(ranks[number], halves[number].step(rank, *padding))

        losses = on_ranks([act(0), act(1)])
        mean = torch.stack(losses).mean()
        assert float(mean.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
        (found,) = torch.autograd.grad(mean, scene.output.region)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        for name, state in alone.state_dict().items():
            torch.testing.assert_close(ranks[0].state_dict()[name], state, msg=name)
            assert torch.equal(ranks[0].state_dict()[name], ranks[1].state_dict()[name])


def test_ranks_with_negatives_of_their_own_remember_the_pairs_of_all() -> None:
    term_class, options = KINDS["contrast"]
    options = replace(options, gate=0.0, queue=50)  # type: ignore[type-var]
    scene = some_scene([[0, 3], [2], [1], []], [[5, 6, 7, 8], [6], [], []])
    halves, padding = [scene.subset([0, 1]), scene.subset([2, 3])], sizes(scene)
    ranks = [prepared(term_class, options, scene) for _ in "ab"]

    def act(number: int) -> Any:
        return lambda rank: value(ranks[number], halves[number].step(rank, *padding))

    losses = on_ranks([act(0), act(1)])
    expected = value(prepared(term_class, options, scene), halves[0].step())
    assert float(losses[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(losses[1].detach()) == 0, "one pair on that rank"
    state = ranks[0].state_dict()
    assert state["students.filled"].tolist() == [3 + MOST + 1] * LAYERS, "the single pair did not enter"
    assert all(torch.equal(state[name], ranks[1].state_dict()[name]) for name in state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_alone(kind: str) -> None:
    term_class, options = KINDS[kind]
    scene = some_scene(*USUAL)
    whole = value(prepared(term_class, options, scene), scene.step())
    last = value(
        prepared(term_class, replace(options, layers="last"), scene),
        scene.step(),  # type: ignore[type-var]
    )
    first = replace(scene.output, boxes=scene.output.boxes[:1], region=scene.output.region[:1])
    pairs = scene.pairs
    assert pairs.proposals is not None
    cut = [Pairs(one.images, one.regions[:1], one.objects[:1]) for one in (pairs, pairs.proposals)]
    rest = replace(scene.step(), output=first, pairs=replace(cut[0], proposals=cut[1]))
    options_of_one = replace(options, layers="last")  # type: ignore[type-var]
    other = value(prepared(term_class, options_of_one, scene), rest)
    assert float((last + other).detach()) == pytest.approx(float(whole.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_that_is_not_finite_is_not_remembered(kind: str) -> None:
    scene = some_scene(*USUAL, near=1.0)
    term = prepared(*KINDS[kind], scene)
    image, region, _ = entries(scene.pairs, 0)[0]
    with torch.no_grad():
        scene.output.region[0, image, region] = torch.nan
    assert not bool(value(term, scene.step()).isfinite())
    assert all(bool(one.isfinite().all()) for one in term.state_dict().values())
    healthy = some_scene(*USUAL, 1)
    assert bool(value(term, healthy.step()).isfinite())


def test_which_rows_are_read() -> None:
    for kind, options in KINDS.values():
        assert kind.rows_of(options, True) == ("crop", "proposal_crop")
        assert kind.rows_of(options, False) == ("crop",)
        assert kind.rows_of(replace(options, regions="objects"), True) == ("crop",)  # type: ignore[type-var]
        assert kind.rows_of(replace(options, regions="proposals"), True) == (  # type: ignore[type-var]
            "proposal_crop",
        )
