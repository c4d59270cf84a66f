"""The text-space relation head's losses and prototypes against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cckt.detector.config.terms import NovelAwareClassesConfig, TextRelationConfig
from cckt.detector.losses.terms.term import StepInputs, Term
from cckt.detector.losses.terms.text_relation import TextRelation
from tests.detector.losses.hd_samples import (
    EMPTY,
    REPEATED,
    USUAL,
    Scene,
    entries,
    on_ranks,
    prepared,
    sizes,
    slow_relation,
    slow_softmax,
    some_scene,
)
from tests.detector.losses.terms.test_novel_aware_classes import proposals_of, slow_noun_weight
from tests.detector.students.samples import CONCEPTS, LAYERS

OPTIONS = TextRelationConfig(weight=1.0, contrast_weight=1.0, s0=0.8, s_delta=0.1, decay=0.9, ramp=2.0)
INVALID = [(0, "noun", 1), (1, "proposal_crop", 0)]
ONE_CLASS = ([[1, 1], [1]], [[5], [6]])
Means = list[list[Tensor]]


def values(term: Term, step: StepInputs) -> tuple[Tensor, Tensor]:
    found = term(step)
    return found["text_relation"], found["text_contrast"]


def slow_prototypes(scene: Scene, layer: int) -> dict[int, Tensor]:
    """Eq. 31."""
    assert scene.output.relation is not None
    of_class: dict[int, list[tuple[float, Tensor]]] = {}
    for b, region, at in entries(scene.pairs, layer):
        overlap = scene.overlap(layer, b, region, scene.image(b, False)[at])
        h = scene.output.relation[layer, b, region].detach()
        of_class.setdefault(int(scene.targets[b].concepts[at]), []).append((overlap, h))
    found = {}
    for k, members in of_class.items():
        shares = slow_softmax([overlap for overlap, _ in members])
        found[k] = torch.stack([share * h for share, (_, h) in zip(shares, members, strict=True)]).sum(0)
    return found


def slow_losses(
    scene: Scene, layer: int, means: list[Tensor], options: TextRelationConfig
) -> tuple[float, float]:
    """Eqs. 34 to 36 with one column per noun, base nouns dropped or merged."""
    assert scene.output.relation is not None
    prototypes = slow_prototypes(scene, layer)
    if len(prototypes) < 2:
        return 0.0, 0.0
    rows = [prototypes.get(k, means[k]) for k in range(CONCEPTS)]
    rows = [row / row.norm() for row in rows]
    texts, labels = [scene.texts[k] for k in range(CONCEPTS)], list(range(CONCEPTS))
    weights = [1.0] * CONCEPTS
    live = [k in prototypes for k in range(CONCEPTS)]
    columns, column_of = list(texts), {}
    relation_texts = list(texts)
    known = {(b, j): noun for b in range(len(scene.targets)) for j, noun in proposals_of(scene, b)}
    weight_options = NovelAwareClassesConfig(s0=options.s0, s_delta=options.s_delta)
    for b, region, j in entries(scene.pairs.proposals, layer):
        if (b, j) not in known:
            continue
        h, noun = scene.output.relation[layer, b, region].detach(), known[b, j]
        rows.append(h / h.norm())
        relation_texts.append(scene.texts[noun])
        live.append(True)
        weight = slow_noun_weight(scene, b, j, weight_options)
        if noun < CONCEPTS:
            labels.append(noun)
            weights.append(weight if options.base_nouns == "merge" else 0.0)
            continue
        if noun not in column_of:
            column_of[noun] = len(columns)
            columns.append(scene.texts[noun])
        labels.append(column_of[noun])
        weights.append(weight)
    relation = slow_relation(rows, relation_texts, 5, 10)
    total = 0.0
    for i in range(len(rows)):
        if live[i]:
            shares = slow_softmax([20 * float(rows[i] @ column) for column in columns])
            total -= weights[i] * math.log(shares[labels[i]])
    return relation, total / sum(live)


@pytest.mark.parametrize("counts", ["class", "shared"])
@pytest.mark.parametrize("base_nouns", ["drop", "merge"])
@pytest.mark.parametrize("case", [USUAL, REPEATED, ONE_CLASS, EMPTY], ids=["usual", "again", "one", "none"])
def test_three_steps_equal_plain_loops(case: Any, base_nouns: Any, counts: Any) -> None:
    options = replace(OPTIONS, base_nouns=base_nouns, counts=counts)
    first = some_scene(*case)
    term = prepared(TextRelation, options, first)
    means = [[first.texts[k] for k in range(CONCEPTS)] for _ in range(LAYERS)]
    updates = [[0] * CONCEPTS for _ in range(LAYERS)]
    for seed in range(3):
        invalid = INVALID if case in (USUAL, REPEATED) else []
        scene = some_scene(*case, seed, invalid=invalid, texts=first.texts)
        expected = [0.0, 0.0]
        for layer in range(LAYERS):
            for at, one in enumerate(slow_losses(scene, layer, means[layer], options)):
                expected[at] += one
            prototypes = slow_prototypes(scene, layer)
            if len(prototypes) < 2:
                continue
            for k in range(CONCEPTS):
                updates[layer][k] += k in prototypes or counts == "shared"
                if k in prototypes:
                    decay = 0.9 * (1 - math.exp(-updates[layer][k] / 2))
                    means[layer][k] = decay * means[layer][k] + (1 - decay) * prototypes[k]
        relation, contrast = values(term, scene.step())
        assert float(relation.detach()) == pytest.approx(expected[0], rel=1e-3, abs=1e-6)
        assert float(contrast.detach()) == pytest.approx(expected[1], rel=1e-4, abs=1e-6)
        (relation + contrast).backward()  # type: ignore[no-untyped-call]
        assert scene.output.relation is not None
        assert scene.output.relation.grad is not None
        assert bool(scene.output.relation.grad.isfinite().all())
        torch.testing.assert_close(
            term.state_dict()["prototypes.means"], torch.stack([torch.stack(one) for one in means])
        )
    assert term.state_dict()["prototypes.updates"].tolist() == updates


@pytest.mark.parametrize("repeated", ["positives", "separate"])
def test_repeated_nouns_with_a_column_each(repeated: Any) -> None:
    """Nouns 6 and 6: both columns are right for both rows, or each only for its own."""
    scene = some_scene([[0, 1], []], [[6, 6], []], near=1.0)
    assert scene.output.relation is not None
    term = prepared(TextRelation, replace(OPTIONS, repeated_nouns=repeated), scene)
    _, contrast = values(term, scene.step())
    expected = 0.0
    columns = [*scene.texts[:CONCEPTS], scene.texts[6], scene.texts[6]]
    for layer in range(LAYERS):
        total = 0.0
        for k, row in slow_prototypes(scene, layer).items():
            total -= math.log(slow_softmax([20 * float(row / row.norm() @ one) for one in columns])[k])
        for b, region, j in entries(scene.pairs.proposals, layer):
            h = scene.output.relation[layer, b, region].detach()
            shares = slow_softmax([20 * float(h / h.norm() @ one) for one in columns])
            right = shares[-1] if repeated == "separate" else shares[-1] + shares[-2]
            weight = slow_noun_weight(scene, b, j, NovelAwareClassesConfig(s0=0.8, s_delta=0.1))
            total -= weight * math.log(right)
        expected += total / 4
    assert float(contrast.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_order_of_images_changes_nothing() -> None:
    scene = some_scene(*REPEATED)
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        term = prepared(TextRelation, OPTIONS, scene)
        losses = values(term, scene.subset(order).step())
        found.append([float(one.detach()) for one in losses])
        torch.testing.assert_close(term.state_dict()["prototypes.updates"].sum(), torch.tensor(LAYERS * 3))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("negatives", ["world", "rank"])
def test_two_ranks_share_prototypes(negatives: Any) -> None:
    options = replace(OPTIONS, negatives=negatives)
    images = ([[0, 3], [2, 0], [1, 3], [4]], [[5, 6, 7], [6, 2], [5], []])
    scene = some_scene(*images)
    alone, *ranks = [prepared(TextRelation, options, scene) for _ in range(3)]
    padding = sizes(scene)
    for seed in range(2):
        scene = some_scene(*images, seed, texts=scene.texts)
        whole = torch.stack(values(alone, scene.step()))
        halves = [scene.subset([0, 1]), scene.subset([2, 3])]

        def act(number: int, halves: list[Scene] = halves) -> Any:
            return lambda rank: torch.stack(values(ranks[number], halves[number].step(rank, *padding)))

        found = torch.stack(on_ranks([act(0), act(1)])).mean(0)
        if negatives == "world":
            torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)
            assert scene.output.relation is not None
            (expected,) = torch.autograd.grad(whole.sum(), scene.output.relation)
            (gradient,) = torch.autograd.grad(found.sum(), scene.output.relation)
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
        for name, state in alone.state_dict().items():
            torch.testing.assert_close(ranks[0].state_dict()[name], state, msg=name)
            assert torch.equal(ranks[0].state_dict()[name], ranks[1].state_dict()[name])


def test_a_class_mean_that_is_not_finite_moves_no_prototype() -> None:
    scene = some_scene(*USUAL)
    term = prepared(TextRelation, OPTIONS, scene)
    image, region, _ = entries(scene.pairs, 0)[0]
    with torch.no_grad():
        assert scene.output.relation is not None
        scene.output.relation[0, image, region] = torch.nan
    term(scene.step())
    assert bool(term.state_dict()["prototypes.means"].isfinite().all())
