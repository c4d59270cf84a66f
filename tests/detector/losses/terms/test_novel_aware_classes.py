"""Novel-aware classification against plain loops over regions and columns, for every decision."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.terms import NovelAwareClassesConfig
from cckt.detector.losses.nouns import WeightConstants, nouns_of
from cckt.detector.losses.terms.novel_aware_classes import NovelAwareClasses
from cckt.detector.losses.terms.term import ONE_RANK, StepInputs, Term
from tests.detector.losses.hd_samples import (
    EMPTY,
    MOST,
    REGIONS,
    REPEATED,
    USUAL,
    Scene,
    entries,
    on_ranks,
    prepared,
    sizes,
    some_scene,
)
from tests.detector.students.samples import CONCEPTS, LAYERS

OPTIONS = NovelAwareClassesConfig(weight=1.0, s0=0.8, s_delta=0.1)
INVALID = [(0, "noun", 1), (1, "proposal_crop", 0)]


def value(term: Term, step: StepInputs) -> Tensor:
    (loss,) = term(step).values()
    assert isinstance(loss, Tensor)
    return loss


def slow_noun_weight(scene: Scene, b: int, j: int, options: NovelAwareClassesConfig) -> float:
    """Eqs. 11 and 12; 0 for a proposal without noun or crop."""
    rows = scene.targets[b].teacher
    if not (rows["noun"].valid[j] and rows["proposal_crop"].valid[j]):
        return 0.0
    cosine = float(rows["noun"].values[j] @ rows["proposal_crop"].values[j])
    return options.w_max / (1 + math.exp(-(cosine - options.s0) / options.s_delta))


def proposals_of(scene: Scene, b: int) -> list[tuple[int, int]]:
    """(number, noun) of the distilled proposals of an image that have noun and crop."""
    rows = scene.targets[b].teacher
    ids = rows["noun"].ids
    assert ids is not None
    known = rows["noun"].valid & rows["proposal_crop"].valid
    return [(j, int(ids[j])) for j in range(min(MOST, len(ids))) if known[j]]


def slow_bank(
    scene: Scene, image: int, options: NovelAwareClassesConfig
) -> tuple[list[Tensor], dict[tuple[int, int], list[int]], set[tuple[int, int]]]:
    """Eq. 23: columns of an image without the background, the right columns of each proposal of any image,
    and the proposals that are dropped."""
    columns = [scene.texts[c] for c in range(CONCEPTS)]
    right: dict[tuple[int, int], list[int]] = {}
    of_noun: dict[int, list[int]] = {}
    dropped = set()
    images = [image] if options.negatives == "image" else range(len(scene.targets))
    for b in images:
        for j, noun in proposals_of(scene, b):
            if noun < CONCEPTS and options.base_nouns != "separate":
                if options.base_nouns == "drop":
                    dropped.add((b, j))
                right[b, j] = [noun]
                continue
            if options.repeated_nouns != "column" or noun not in of_noun:
                of_noun.setdefault(noun, []).append(len(columns))
                columns.append(scene.texts[noun])
            right[b, j] = [len(columns) - 1] if options.repeated_nouns == "separate" else of_noun[noun]
    return columns, right, dropped


def slow_loss(scene: Scene, options: NovelAwareClassesConfig) -> list[tuple[float, int]]:
    """Eqs. 24, 25 and 27: per layer, the sum over regions and the number of regions of weight above 0."""
    background = scene.output.background
    assert background is not None
    assert scene.output.text_region is not None
    layers = []
    for layer in range(LAYERS):
        total, number = 0.0, 0
        objects = {(b, region): at for b, region, at in entries(scene.pairs, layer)}
        proposals = {(b, region): at for b, region, at in entries(scene.pairs.proposals, layer)}
        for b, region in itertools.product(range(len(scene.targets)), range(REGIONS)):
            columns, right, dropped = slow_bank(scene, b, options)
            columns = [*columns, background.detach() / background.detach().norm()]
            g = scene.output.text_region[layer, b, region].detach()
            scores = [50 * float(g @ column) for column in columns]
            top = max(scores)
            normaliser = top + math.log(sum(math.exp(one - top) for one in scores))
            if (b, region) in objects:
                at = objects[b, region]
                near = scene.overlap(layer, b, region, scene.image(b, False)[at]) >= options.gate
                omega, labels = float(near), [int(scene.targets[b].concepts[at])]
            elif (b, region) in proposals:
                at = proposals[b, region]
                near = scene.overlap(layer, b, region, scene.image(b, True)[at]) >= options.gate
                omega = near * slow_noun_weight(scene, b, at, options) * ((b, at) not in dropped)
                labels = right.get((b, at), [0])
            else:
                count = None if options.background_avoids == "all" else MOST
                boxes = [*scene.image(b, False), *scene.image(b, True)[:count]]
                close = any(scene.overlap(layer, b, region, box) > options.background_gate for box in boxes)
                omega, labels = options.background_weight * (not close), [len(columns) - 1]
            own = math.log(sum(math.exp(scores[label] - top) for label in labels)) + top
            total += omega * (normaliser - own)
            number += omega > 0
        layers.append((total, number))
    return layers


DECISIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "positives": {"repeated_nouns": "positives"},
    "separate": {"repeated_nouns": "separate", "base_nouns": "separate"},
    "merge": {"base_nouns": "merge"},
    "own nouns only": {"negatives": "image"},
    "own nouns only, positives": {"negatives": "image", "repeated_nouns": "positives"},
    "regions": {"divisor": "regions"},
    "all proposals": {"background_avoids": "all", "background_gate": 0.3},
    "no gates": {"gate": 0.0, "background_gate": 1.0, "background_weight": 1.0, "divisor": "regions"},
}


@pytest.mark.parametrize("values", DECISIONS.values(), ids=DECISIONS.keys())
@pytest.mark.parametrize("case", [USUAL, REPEATED, EMPTY], ids=["usual", "repeated", "empty"])
def test_loss_equals_plain_loops(case: Any, values: dict[str, Any]) -> None:
    options = replace(OPTIONS, **values)
    scene = some_scene(*case, invalid=[] if case is EMPTY else INVALID)
    expected = 0.0
    for total, number in slow_loss(scene, options):
        expected += total / max(1, number) if options.divisor == "regions" else total
    term = prepared(NovelAwareClasses, options, scene)
    loss = value(term, scene.step())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert term.normalised == (options.divisor == "regions")
    loss.backward()  # type: ignore[no-untyped-call]
    assert scene.output.text_region is not None
    for given in (scene.output.text_region, scene.output.background):
        assert given is not None
        assert given.grad is not None
        assert bool(given.grad.isfinite().all())
        assert bool(given.grad.any())


def test_decisions_differ_where_nouns_repeat() -> None:
    scene = some_scene(*REPEATED)
    names = ["default", "positives", "separate", "merge", "own nouns only"]
    found = {
        name: float(
            value(
                prepared(NovelAwareClasses, replace(OPTIONS, **DECISIONS[name]), scene), scene.step()
            ).detach()
        )
        for name in names
    }
    assert len({round(one, 3) for one in found.values()}) == len(names), found


def test_the_order_of_images_changes_nothing() -> None:
    scene = some_scene(*REPEATED)
    losses = [
        value(prepared(NovelAwareClasses, OPTIONS, scene), scene.subset(order).step())
        for order in ([0, 1, 2], [2, 0, 1])
    ]
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-5)


@pytest.mark.parametrize("divisor", ["objects", "regions"])
def test_two_ranks_with_all_nouns_equal_one(divisor: Any) -> None:
    options = replace(OPTIONS, negatives="world", divisor=divisor)
    scene = some_scene([[0, 3], [2], [1], [4]], [[5, 6, 7], [6, 2], [5], []])
    whole = value(prepared(NovelAwareClasses, options, scene), scene.step())
    terms = [prepared(NovelAwareClasses, options, scene) for _ in "ab"]
    halves, padding = [scene.subset([0, 1]), scene.subset([2, 3])], sizes(scene)

    def act(number: int) -> Any:
        return lambda rank: value(terms[number], halves[number].step(rank, *padding))

    losses = torch.stack(on_ranks([act(0), act(1)]))
    found = losses.mean() if divisor == "regions" else losses.sum()
    assert float(found.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)


def test_without_proposals_the_bank_is_base_texts_and_background() -> None:
    scene = some_scene([[0, 3], [2]], [[], []])
    term = prepared(NovelAwareClasses, OPTIONS, scene)
    expected = sum(total for total, _ in slow_loss(scene, OPTIONS))
    bare = [replace(one, proposals=None) for one in scene.targets]
    scene.targets = [replace(one, teacher={}) for one in bare]  # no term reads crops
    scene.pairs = replace(scene.pairs, proposals=None)
    assert float(value(term, scene.step()).detach()) == pytest.approx(expected, rel=1e-4)
    assert NovelAwareClasses.rows_of(OPTIONS, False) == ()
    assert NovelAwareClasses.rows_of(OPTIONS, True) == ("noun", "proposal_crop")


def bank_of(term: NovelAwareClasses, scene: Scene) -> Tensor:
    """Base concepts that take part for each image."""
    step = scene.step()
    nouns = nouns_of(
        step.targets, term.options, term.constants, CONCEPTS, MOST, "rank", ONE_RANK, term.text.shape[1]
    )
    return term._kept(step, nouns)[:, :CONCEPTS]


def test_a_bank_keeps_what_is_present_and_draws_the_rest_by_what_was_seen() -> None:
    options = replace(OPTIONS, bank=2, base_nouns="merge")
    scene = some_scene([[0, 3, 2], [1], []], [[], [4], []], near=1.0)
    term = prepared(NovelAwareClasses, options, scene)
    assert isinstance(term, NovelAwareClasses)
    drawn = torch.zeros(CONCEPTS)
    for _ in range(200):
        base = bank_of(term, scene)
        assert base[0].tolist() == [True, False, True, True, False]
        assert base[1].tolist() == [False, True, False, False, True], "the merged noun is present too"
        assert int(base[2].sum()) == 2
        drawn += base[2]
    assert bool((drawn > 0).all())
    assert term.state_dict()["seen"].tolist() == [200] * CONCEPTS
    term.seen += torch.tensor([1000000, 0, 0, 0, 0])
    empty, counts = some_scene([[]], [[]]), torch.zeros(CONCEPTS)
    for _ in range(100):
        counts += bank_of(term, empty)[0]
    assert int(counts[0]) > 85, "in proportion to the square root of how often a class was seen"
    assert int(counts.sum()) == 200
    assert "seen" not in prepared(NovelAwareClasses, OPTIONS, scene).state_dict()


def test_fitted_constants_come_from_the_column() -> None:
    fitted = {"noun": {"weight": {"s0": 0.5, "s_delta": 0.25, "w_max": 2.0, "names": 9}}}
    known = WeightConstants.of(replace(OPTIONS, noun_weight="fitted"), fitted)
    assert known == WeightConstants(0.5, 0.25, 2.0)
    assert float(known.weight(torch.tensor(0.75))) == pytest.approx(2 / (1 + math.exp(-1)))
    assert WeightConstants.of(OPTIONS, fitted) == WeightConstants(0.8, 0.1, 1.3)
    for recipes in ({}, {"noun": {}}, {"noun": {"weight": {"s0": 1}}}):
        with pytest.raises(UserError, match="'fitted', but the column of nouns holds no fitted weight"):
            WeightConstants.of(replace(OPTIONS, noun_weight="fitted"), recipes)


def test_the_weights_of_the_authors() -> None:
    """Section 3: w = 0.65 at s = 0.31, 1 at 0.341, never above 1.3."""
    constants = WeightConstants.of(NovelAwareClassesConfig(), {})
    found = constants.weight(torch.tensor([0.31, 0.341, 1.0]))
    assert found.tolist() == pytest.approx([0.65, 1.0, 1.3], abs=5e-3)
