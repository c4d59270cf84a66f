"""Guided references: present concepts choose the cells of their queries; the losses of this choice."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from cckt.detector.config.config import LossConfig
from cckt.detector.students.deformable_detr.criterion import word_loss
from cckt.detector.students.deformable_detr.query_init import (
    MASKED,
    choose_cells,
)
from cckt.detector.students.targets import pad_targets
from tests.detector.students.deformable_detr.test_guidance import slow_deal
from tests.detector.students.deformable_detr.test_query_init import encoded, student, with_objectness
from tests.detector.students.samples import (
    CONCEPTS,
    WIDTH,
    embeddings_of,
    losses_of,
    matched,
    slow_cross_entropy,
    slow_focal,
    some_targets,
    unit,
    valid_of,
)
from tests.detector.students.test_model import present


def test_each_concept_chooses_its_cells() -> None:
    torch.manual_seed(3)
    shapes, queries = [(2, 4)], 6
    encoder_output = encoded(shapes, [[(2, 4)], [(2, 4)], [(1, 3)]])
    assert encoder_output.keep is not None
    proposals = with_objectness(
        encoder_output, torch.randn(3, 8).masked_fill(~encoder_output.keep[..., 0], MASKED)
    ).cells
    assert proposals is not None
    words = torch.randn(3, 8, 2) * 3
    counts = [2, 0, 1]
    found = choose_cells(replace(proposals, words=words), encoder_output, torch.tensor(counts), queries)
    for b, count in enumerate(counts):
        cells = [s for s in range(8) if bool(encoder_output.keep[b, s, 0])]
        runs = slow_deal(count, queries)
        for word in set(runs):
            score = {
                s: float(proposals.objectness[b, s].sigmoid())
                * (float(words[b, s, word].sigmoid()) if word >= 0 else 1.0)
                for s in cells
            }
            order = sorted(cells, key=lambda s: -score[s])
            chosen = [int(found[b, q]) for q in range(queries) if runs[q] == word]
            assert chosen == [order[place % len(order)] for place in range(len(chosen))]


def test_the_loss_of_concepts_covers_only_the_guidance_of_each_image() -> None:
    model, text = student("guided"), unit(CONCEPTS, WIDTH)
    targets = [some_targets([0, 3, 3]), some_targets([]), some_targets([1])]
    given = [[3, 2], [4], []]  # 0 and 1 are dropped from the guidance; 2 and 4 are absent
    rows = torch.tensor([[3, 2], [4, -1], [-1, -1]])
    with torch.no_grad():
        output = model(torch.randn(3, 3, 48, 48), None, text, present(text, *given))
    matches = matched(output, targets, text)
    words = output.cells.words
    assert words.shape == (3, output.cells.boxes.shape[1], 2)
    expected = 0.0
    for b, target in enumerate(targets):
        cells, objects = matches.cells.of_image(0, b)
        chosen = dict(zip(cells.tolist(), objects.tolist(), strict=True))
        for s, (g, concept) in itertools.product(range(words.shape[1]), enumerate(given[b])):
            own = s in chosen and int(target.concepts[chosen[s]]) == concept
            expected += 2 * slow_focal(float(words[b, s, g]), own)
    found = word_loss(output.cells, pad_targets(targets), matches.cells, rows, LossConfig())
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_matched_cells_are_distilled_from_the_teacher() -> None:
    torch.manual_seed(4)
    model, text = student("guided"), unit(CONCEPTS, WIDTH)
    targets = [some_targets([0, 3, 3], [True, False, True]), some_targets([]), some_targets([1])]
    rows = torch.full((3, 0), -1)
    with torch.no_grad():
        output = model(torch.randn(3, 3, 48, 48), None, text, None)
    matches = matched(output, targets, text)
    cells, objects, teachers = [], [], []
    for b, target in enumerate(targets):
        for s, m in zip(*(one.tolist() for one in matches.cells.of_image(0, b)), strict=True):
            cells.append(output.cells.region[b, s])
            objects.append(len(objects))
            teachers.append(embeddings_of(target)[m] if bool(valid_of(target)[m]) else None)
    expected = 0.0
    known = [k for k, one in enumerate(teachers) if one is not None]
    for k in known:
        forth = [float(teachers[k] @ one) / 0.07 for one in cells]
        back = [float(cells[k] @ teachers[j]) / 0.07 for j in known]
        expected += (slow_cross_entropy(forth, k) + slow_cross_entropy(back, known.index(k))) / 2
    off, on = (
        losses_of(output, targets, matches, contrast=one, present=rows)["proposals"] for one in (False, True)
    )
    assert float(on - off) == pytest.approx(expected / 4, rel=1e-3)


def test_guided_without_guidance_is_encoder() -> None:
    bare = student("guided", guidance=False).eval()
    other = student("encoder", guidance=False).eval()
    other.load_state_dict(bare.state_dict())
    text, images = unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        one, two = (model(images, None, text, present(text, [1, 2])) for model in (bare, other))
    assert torch.equal(one.boxes, two.boxes)
