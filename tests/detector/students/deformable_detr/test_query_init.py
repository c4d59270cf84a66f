"""First boxes from encoder cells: anchors, order, dealing, losses, and the whole student with them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cckt.detector.students.contract import StudentOutput
from cckt.detector.students.deformable_detr.guidance import deal_runs
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.students.deformable_detr.outputs import EncoderCells
from cckt.detector.students.deformable_detr.query_init import (
    MASKED,
    BoxPosition,
    ProposalHead,
    anchors,
    choose_cells,
    sine_boxes,
)
from cckt.detector.students.deformable_detr.transformer import Encoded
from tests.detector.students import samples
from tests.detector.students.deformable_detr.test_guidance import slow_deal
from tests.detector.students.samples import (
    CONCEPTS,
    TINY,
    WIDTH,
    losses_of,
    matched,
    slow_focal,
    slow_giou,
    some_targets,
    unit,
)
from tests.detector.students.test_model import present

HIDDEN = 32
KINDS = ["encoder", "guided"]


def student(reference: str = "encoder", *, guidance: bool = True, **changes: object) -> DeformableDETR:
    torch.manual_seed(0)
    return samples.student(replace(TINY, reference=reference, **changes), guidance=guidance)


def encoded(shapes: list[tuple[int, int]], kept: list[list[tuple[int, int]]] | None = None) -> Encoded:
    """Random memory of images that fill `kept[b][level]` (rows, columns) of each level; None: all of it."""
    photos = 1 if kept is None else len(kept)
    cells = sum(h * w for h, w in shapes)
    if kept is None:
        return Encoded(torch.randn(photos, cells, HIDDEN), shapes, None, torch.ones(1, len(shapes), 2))
    keep = [torch.zeros(photos, h, w, dtype=torch.bool) for h, w in shapes]
    for b, sizes in enumerate(kept):
        for one, (h, w) in zip(keep, sizes, strict=True):
            one[b, :h, :w] = True
    flat = torch.cat([one.flatten(1) for one in keep], 1)[..., None]
    ratios = torch.tensor(
        [
            [[w / shape[1], h / shape[0]] for (h, w), shape in zip(sizes, shapes, strict=True)]
            for sizes in kept
        ]
    )
    return Encoded(torch.randn(photos, cells, HIDDEN), shapes, flat, ratios)


def proposals_of(encoder_output: Encoded) -> EncoderCells:
    assert encoder_output.cells is not None
    return encoder_output.cells


def with_objectness(encoder_output: Encoded, objectness: Tensor) -> Encoded:
    encoder_output.cells = EncoderCells(objectness, torch.rand(*objectness.shape, 4))
    return encoder_output


@pytest.mark.parametrize("kept", [None, [[(4, 6), (2, 3)], [(3, 5), (2, 2)]]], ids=["full", "padded"])
def test_anchors_are_squares_around_the_centres(kept: list[list[tuple[int, int]]] | None) -> None:
    shapes = [(4, 6), (2, 3)]
    encoder_output = encoded(shapes, kept)
    found = anchors(encoder_output)
    for b, sizes in enumerate(kept or [shapes]):
        expected = []
        for (height, width), (rows, columns) in zip(shapes, sizes, strict=True):
            for y, x in itertools.product(range(height), range(width)):
                expected.append(
                    [(x + 0.5) / columns, (y + 0.5) / rows, min(0.9, 4 / columns), min(0.9, 4 / rows)]
                )
        torch.testing.assert_close(found[b], torch.tensor(expected))
        if encoder_output.keep is not None:  # no border has to be excluded
            inside = found[b][encoder_output.keep[b, :, 0]]
            assert bool(((inside[:, :2] > 0) & (inside[:, :2] < 1)).all())


def test_a_new_head_proposes_the_anchors_with_low_objectness() -> None:
    torch.manual_seed(0)
    encoder_output = encoded([(4, 6), (2, 3)], [[(4, 6), (2, 3)], [(3, 5), (2, 2)]])
    found = ProposalHead(HIDDEN, WIDTH, guided=False)(encoder_output)
    assert encoder_output.keep is not None
    kept = encoder_output.keep[..., 0]
    torch.testing.assert_close(found.boxes[kept], anchors(encoder_output)[kept], atol=1e-5, rtol=1e-5)
    assert float(found.objectness[kept].detach().sigmoid().mean()) < 0.05
    assert bool((found.objectness[~kept] == MASKED).all())
    assert bool(found.boxes.isfinite().all())


def test_objectness_and_boxes_stay_float32_under_autocast() -> None:
    encoder_output = encoded([(3, 3)])
    with torch.autocast("cpu", torch.bfloat16):
        found = ProposalHead(HIDDEN, WIDTH, guided=False)(encoder_output)
    assert found.objectness.dtype == found.boxes.dtype == torch.float32


@pytest.mark.parametrize("queries", [1, 5, 8])
def test_ranks_in_the_runs(queries: int) -> None:
    counts = [0, 1, 3, 9]
    concept, place = deal_runs(torch.tensor(counts), queries)
    for b, count in enumerate(counts):
        runs = slow_deal(count, queries)
        assert concept[b].tolist() == runs
        assert place[b].tolist() == [runs[:q].count(runs[q]) for q in range(queries)]


def test_the_best_cells_are_dealt_to_the_concepts_in_turn() -> None:
    objectness = torch.randperm(12)[None].expand(4, -1).float()
    order = objectness[0].argsort(descending=True).tolist()
    encoder_output = with_objectness(encoded([(3, 4)]), objectness)
    counts = [0, 1, 3, 9]
    found = choose_cells(proposals_of(encoder_output), encoder_output, torch.tensor(counts), 7)
    for b, count in enumerate(counts):
        assert sorted(found[b].tolist()) == sorted(order[:7])
        # by hand: cycle through the runs, a cell for each that still has a query without one
        runs, waiting, expected = slow_deal(count, 7), order[:7], [-1] * 7
        while waiting:
            for word in sorted(set(runs)):
                opened = [q for q in range(7) if runs[q] == word and expected[q] < 0]
                if opened:
                    expected[opened[0]] = waiting.pop(0)
        assert found[b].tolist() == expected


@pytest.mark.parametrize("unguided", [1, 3, 6])
def test_queries_that_no_concept_gets(unguided: int) -> None:
    """They take the best cells by objectness: with logits of concepts all of them, without the cells left."""
    objectness = torch.randperm(12)[None].expand(4, -1).float()
    order = objectness[0].argsort(descending=True).tolist()
    encoder_output = with_objectness(encoded([(3, 4)]), objectness)
    counts, guided = torch.tensor([0, 1, 3, 9]), 7 - unguided
    plain = proposals_of(encoder_output)
    whole = choose_cells(plain, encoder_output, counts, guided)
    found = choose_cells(plain, encoder_output, counts, 7, unguided)
    assert torch.equal(found[:, :guided], whole)
    assert found[:, guided:].tolist() == [order[guided:7]] * 4
    words = replace(plain, words=torch.randn(4, 12, 9))
    found = choose_cells(words, encoder_output, counts, 7, unguided)
    assert torch.equal(found[:, :guided], choose_cells(words, encoder_output, counts, guided))
    assert found[0].tolist() == order[:7]
    assert found[1:, guided:].tolist() == [order[:unguided]] * 3


def test_equal_cells_keep_row_major_order() -> None:
    encoder_output = with_objectness(encoded([(3, 4)]), torch.zeros(1, 12))
    assert choose_cells(proposals_of(encoder_output), encoder_output, torch.tensor([0]), 5).tolist() == [
        [0, 1, 2, 3, 4]
    ]


def test_too_few_cells_are_used_again_but_padding_never() -> None:
    encoder_output = encoded([(2, 3)], [[(2, 3)], [(1, 2)]])
    assert encoder_output.keep is not None
    logits = torch.tensor([[5.0, 4, 3, 2, 1, 0], [1.0, 2, 9, 9, 9, 9]])
    with_objectness(encoder_output, logits.masked_fill(~encoder_output.keep[..., 0], MASKED))
    found = choose_cells(proposals_of(encoder_output), encoder_output, torch.tensor([0, 0]), 8)
    assert found.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1], [1, 0, 1, 0, 1, 0, 1, 0]]
    whole = with_objectness(encoded([(2, 3)]), logits[:1])
    assert choose_cells(proposals_of(whole), whole, torch.tensor([0]), 8).tolist() == found[:1].tolist()


def test_sine_encodings_of_a_box_by_hand() -> None:
    assert BoxPosition(HIDDEN)(torch.zeros(2, 0, 4)).shape == (2, 0, HIDDEN)
    box = torch.tensor([0.1, 0.7, 0.3, 0.9])
    found = sine_boxes(box, 8)
    expected = []
    for value in box.tolist():
        angles = [2 * math.pi * value / 10000 ** (4 * i / 8) for i in range(2)]
        expected += [math.sin(one) for one in angles] + [math.cos(one) for one in angles]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_queries_start_at_the_chosen_boxes(kind: str) -> None:
    model = student(kind).eval()
    with torch.no_grad():
        encoder_output = model.encode(torch.randn(2, 3, 48, 48), None)
        text = unit(CONCEPTS, WIDTH)
        found = model.decode(encoder_output, text, present(text, [1, 2], []))
    assert encoder_output.cells is not None
    assert found.cells is not None
    assert found.cells.boxes is encoder_output.cells.boxes
    # A new box head changes nothing: every query stays at the box of its cell.
    near = torch.cdist(found.boxes[-1], encoder_output.cells.boxes, p=1).min(-1).values
    assert float(near.max()) < 1e-3
    assert type(found.last()) is StudentOutput


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_images_one_by_one_with_any_padding(kind: str) -> None:
    model, text = student(kind).eval(), unit(CONCEPTS, WIDTH)
    big, small = torch.randn(3, 64, 96), torch.randn(3, 32, 64)
    images, padding = torch.zeros(2, 3, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool)
    images[0], padding[0] = big, False
    images[1, :, :32, :64], padding[1, :32, :64] = small, False
    with torch.no_grad():
        batched = model(images, padding, text, present(text, [0, 3], [1]))
        single = model(big[None], None, text, present(text, [0, 3]))
        second = model(images[1:], padding[1:], text, present(text, [1]))
    for name in ("boxes", "logits", "region"):
        torch.testing.assert_close(getattr(batched, name)[:, :1], getattr(single, name), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(getattr(batched, name)[:, 1:], getattr(second, name), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_more_queries_than_cells_give_finite_boxes(kind: str) -> None:
    model, text = student(kind, queries=60).eval(), unit(CONCEPTS, WIDTH)
    with torch.no_grad():
        found = model(torch.randn(1, 3, 48, 48), None, text, present(text, [0]))
    assert found.cells is not None
    assert found.cells.objectness.shape[1] < 60
    assert found.boxes.shape == (2, 1, 60, 4)
    assert bool(found.boxes.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_gets_a_finite_gradient(kind: str, objects: bool) -> None:
    model, text = student(kind), unit(CONCEPTS, WIDTH)
    targets = [some_targets([0, 3] if objects else []), some_targets([])]
    guidance = present(text, [0, 3], []) if objects else present(text, [], [])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 48, 48), None, text, guidance)
    assert output.cells.boxes.dtype == output.cells.objectness.dtype == torch.float32
    matches = matched(output, targets, text)
    rows = torch.tensor([[0, 3], [-1, -1]]) if objects else torch.full((2, 0), -1)
    found = losses_of(output, targets, matches, contrast=objects, present=rows)
    found["total"].backward()
    missing = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert missing == []
    assert all(bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None)


def test_cells_have_separate_matching_and_losses() -> None:
    model, text = student(), unit(CONCEPTS, WIDTH)
    targets = [some_targets([0, 3, 3]), some_targets([]), some_targets([1])]
    with torch.no_grad():
        output = model(torch.randn(3, 3, 48, 48), None, text, None)
    proposals = output.cells
    matches = matched(output, targets, text)
    bare = matched(replace(output, cells=None), targets, text)
    assert torch.equal(matches.regions, bare.regions)
    assert bare.cells is None
    assert matches.cells is not None
    expected = paid = 0.0
    for b, target in enumerate(targets):
        cells, objects = matches.cells.of_image(0, b)
        assert sorted(objects.tolist()) == list(range(len(target)))
        chosen = dict(zip(cells.tolist(), objects.tolist(), strict=True))
        for s, logit in enumerate(proposals.objectness[b].tolist()):
            expected += 2 * slow_focal(logit, s in chosen)
        for s, m in chosen.items():
            box, goal = proposals.boxes[b, s].tolist(), target.boxes[m].tolist()
            distance = sum(abs(x - y) for x, y in zip(box, goal, strict=True))
            expected += 5 * distance + 2 * (1 - slow_giou(box, goal))
            paid += cell_cost(proposals, b, s, target.boxes[m])
        if len(target) == 1:  # the assignment is the cell of lowest cost; concepts have no influence
            costs = [cell_cost(proposals, b, s, target.boxes[0]) for s in range(len(proposals.boxes[b]))]
            assert cells.tolist() == [min(range(len(costs)), key=costs.__getitem__)]
    found = losses_of(output, targets, matches, contrast=False)
    assert float(found["proposals"]) == pytest.approx(expected / 4, rel=1e-4)
    parts = sum(float(value) for name, value in found.items() if name != "total")
    assert float(found["total"]) == pytest.approx(parts, rel=1e-5)


def cell_cost(proposals: EncoderCells, b: int, s: int, goal: Tensor) -> float:
    p = float(proposals.objectness[b, s].sigmoid())
    focal = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
    box = proposals.boxes[b, s].tolist()
    distance = sum(abs(x - y) for x, y in zip(box, goal.tolist(), strict=True))
    return 2 * focal + 5 * distance - 2 * slow_giou(box, goal.tolist())


def test_no_gradient_flows_from_the_decoder_into_the_first_boxes() -> None:
    model, text = student(), unit(CONCEPTS, WIDTH)
    output = model(torch.randn(1, 3, 48, 48), None, text, None)
    (output.boxes.sum() + output.logits.sum()).backward()
    assert model.proposals is not None
    assert all(one.grad is None for one in model.proposals.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_one_image(kind: str) -> None:
    model, text, images = student(kind), unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    targets = [some_targets([0, 3])]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    proposals = []
    for _ in range(20):
        output = model(images, None, text, present(text, [0, 3]))
        matches = matched(output, targets, text)
        found = losses_of(output, targets, matches, contrast=True, present=torch.tensor([[0, 3]]))
        optimizer.zero_grad()
        found["total"].backward()
        optimizer.step()
        proposals.append(float(found["proposals"]))
    assert proposals[-1] < 0.6 * proposals[0]
