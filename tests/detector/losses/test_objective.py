"""Every loss against plain loops over layers, photos and objects."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cckt.detector.config.config import LossConfig, MatcherConfig
from cckt.detector.losses import contrast
from cckt.detector.losses.contrast import contrastive_loss
from cckt.detector.losses.matcher import Matches, match
from cckt.detector.losses.objective import compute_losses
from cckt.detector.students.contract import DetectorOutput, Targets, pad_targets
from tests.detector.losses.test_matcher import CONCEPTS, LAYERS, QUERIES, WIDTH, slow_giou, some_boxes, unit

TAU = 0.07
PARTS = ["class", "l1", "giou", "contrast"]


def some_targets(concepts: list[int], valid: list[bool] | None = None) -> Targets:
    count = len(concepts)
    keep = torch.ones(count, dtype=torch.bool) if valid is None else torch.tensor(valid, dtype=torch.bool)
    embeddings = unit(count, WIDTH)
    embeddings[~keep] = math.nan  # what stands there must never matter
    return Targets(some_boxes(count), torch.tensor(concepts, dtype=torch.int64), embeddings, keep)


def some_output(batch: int, queries: int = QUERIES) -> DetectorOutput:
    """Leaves that want gradients."""
    shape = (LAYERS, batch, queries)
    return DetectorOutput(
        some_boxes(*shape).requires_grad_(),
        (torch.randn(*shape, CONCEPTS) * 2).requires_grad_(),
        unit(*shape, WIDTH).requires_grad_(),
    )


def gradients(output: DetectorOutput) -> list[Tensor]:
    found = [output.boxes.grad, output.logits.grad, output.region.grad]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


def pairs(matches: Matches, layer: int, photo: int) -> list[tuple[int, int]]:
    queries, objects = matches.pairs(layer, photo)
    return list(zip(queries.tolist(), objects.tolist(), strict=True))


def slow_focal(logit: float, target: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return 0.25 * (1 - p) ** 2 * -math.log(p) if target else 0.75 * p**2 * -math.log(1 - p)


def slow_parts(output: DetectorOutput, targets: list[Targets], matches: Matches) -> dict[str, float]:
    """Class, L1 and GIoU of METHOD.md section 5, one number at a time, unnormalised."""
    total = dict.fromkeys(["class", "l1", "giou"], 0.0)
    for layer, (b, target) in itertools.product(range(LAYERS), enumerate(targets)):
        matched = dict(pairs(matches, layer, b))
        for q, c in itertools.product(range(output.logits.shape[2]), range(CONCEPTS)):
            wanted = q in matched and int(target.concepts[matched[q]]) == c
            total["class"] += 2 * slow_focal(float(output.logits[layer, b, q, c].detach()), wanted)
        for q, m in matched.items():
            box, goal = output.boxes[layer, b, q].tolist(), target.boxes[m].tolist()
            total["l1"] += 5 * sum(abs(x - y) for x, y in zip(box, goal, strict=True))
            total["giou"] += 2 * (1 - slow_giou(box, goal))
    return total


def slow_cross_entropy(scores: list[float], target: int) -> float:
    top = max(scores)
    return math.log(sum(math.exp(one - top) for one in scores)) + top - scores[target]


def slow_contrast(output: DetectorOutput, targets: list[Targets], matches: Matches, negatives: str) -> float:
    """Equations 5 and 6, instance bank: half of both ways, summed over objects."""
    total = 0.0
    for layer, (b, target) in itertools.product(range(LAYERS), enumerate(targets)):
        photos = [b] if negatives == "image" else range(len(targets))
        queries = [(p, q) for p in photos for q in range(output.region.shape[2])]
        objects = [(p, m) for p in photos for m in range(len(targets[p])) if bool(targets[p].valid[m])]
        for q, m in pairs(matches, layer, b):
            if bool(target.valid[m]):
                r, e = target.embeddings[m], output.region[layer, b, q].detach()
                forth = [float(r @ output.region[layer, p, j].detach()) / TAU for p, j in queries]
                back = [float(e @ targets[p].embeddings[j]) / TAU for p, j in objects]
                total += slow_cross_entropy(forth, queries.index((b, q))) / 2
                total += slow_cross_entropy(back, objects.index((b, m))) / 2
    return total


BATCHES = {
    "usual": [([0, 3], None), ([2], None), ([1, 1, 4], None)],
    "an empty photo": [([0, 3], None), ([], None), ([4], None)],
    "no valid crop in a photo": [([0, 3], [False, False]), ([2, 2], None)],
    "some invalid": [([0, 3, 1], [True, False, True]), ([2, 2], [False, True])],
    "more objects than queries": [([0, 1, 2, 3, 4, 0], [True, True, False, True, True, True]), ([1], None)],
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_losses_equal_plain_loops(batch: list[tuple[list[int], list[bool] | None]], negatives: str) -> None:
    torch.manual_seed(0)
    config = replace(LossConfig(), negatives=negatives)
    targets = [some_targets(*one) for one in batch]
    output, text = some_output(len(batch)), unit(CONCEPTS, WIDTH)
    matches = match(output, targets, text, MatcherConfig(), TAU)
    found = compute_losses(output, targets, matches, config, contrast=True)
    objects = sum(len(one) for one in targets)
    expected = slow_parts(output, targets, matches)
    expected["contrast"] = slow_contrast(output, targets, matches, negatives)
    for name in PARTS:
        assert float(found[name]) == pytest.approx(expected[name] / objects, rel=1e-4, abs=1e-5), name
    assert float(found["total"].detach()) == pytest.approx(sum(expected.values()) / objects, rel=1e-4)
    found["total"].backward()
    assert all(bool(one.isfinite().all()) for one in gradients(output))


@pytest.mark.parametrize("contrast", [True, False])
@pytest.mark.parametrize("bank", ["instance", "class"])
@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_a_batch_without_objects_learns_background_only(contrast: bool, bank: str, negatives: str) -> None:
    config = replace(LossConfig(), teacher_bank=bank, negatives=negatives)
    targets, text = [some_targets([]), some_targets([])], unit(CONCEPTS, WIDTH)
    output = some_output(2)
    matches = match(output, targets, text, MatcherConfig())
    found = compute_losses(output, targets, matches, config, contrast=contrast)
    assert float(found["class"]) == pytest.approx(slow_parts(output, targets, matches)["class"], rel=1e-4)
    assert [float(found[name]) for name in ("l1", "giou", "contrast")] == [0, 0, 0]
    found["total"].backward()
    boxes, logits, region = gradients(output)
    assert not bool(boxes.any())
    assert not bool(region.any())
    assert bool(logits.all())


def test_contrast_waits_for_its_flag_and_keeps_the_graph() -> None:
    targets, text, output = [some_targets([0, 1])], unit(CONCEPTS, WIDTH), some_output(1)
    matches = match(output, targets, text, MatcherConfig())
    found = compute_losses(output, targets, matches, LossConfig(), contrast=False)
    assert float(found["contrast"]) == 0
    found["total"].backward()
    assert not bool(gradients(output)[2].any())


def test_weights_and_world_objects_scale() -> None:
    torch.manual_seed(1)
    targets, text, output = [some_targets([0, 1]), some_targets([2])], unit(CONCEPTS, WIDTH), some_output(2)
    matches = match(output, targets, text, MatcherConfig())
    base = compute_losses(output, targets, matches, LossConfig(), contrast=True)
    world = compute_losses(output, targets, matches, LossConfig(), contrast=True, world_objects=6)
    least = compute_losses(
        output, targets, matches, LossConfig(), contrast=True, world_objects=torch.tensor(0.2)
    )
    for name in [*PARTS, "total"]:
        assert float(world[name].detach()) == pytest.approx(float(base[name].detach()) / 2)
        assert float(least[name].detach()) == pytest.approx(float(base[name].detach()) * 3)
    for name in PARTS:
        field = f"loss_{name}"
        twice = replace(LossConfig(), **{field: 2 * getattr(LossConfig(), field)})
        found = compute_losses(output, targets, matches, twice, contrast=True)
        for other in PARTS:
            assert float(found[other]) == pytest.approx(float(base[other]) * (2 if other == name else 1))


def test_batched_is_the_sum_of_single_photos() -> None:
    torch.manual_seed(2)
    targets, text = [some_targets([0, 3]), some_targets([]), some_targets([1, 1, 2])], unit(CONCEPTS, WIDTH)
    output = some_output(3)
    joint = compute_losses(
        output,
        targets,
        match(output, targets, text, MatcherConfig()),
        LossConfig(),
        contrast=True,
        world_objects=1,
    )
    total = 0.0
    for b in range(3):
        alone = DetectorOutput(
            output.boxes[:, b : b + 1], output.logits[:, b : b + 1], output.region[:, b : b + 1]
        )
        matches = match(alone, targets[b : b + 1], text, MatcherConfig())
        found = compute_losses(
            alone, targets[b : b + 1], matches, LossConfig(), contrast=True, world_objects=1
        )
        total += float(found["total"].detach())
    assert float(joint["total"].detach()) == pytest.approx(total, rel=1e-5)


def slow_class_contrast(
    output: DetectorOutput, targets: list[Targets], matches: Matches, bank: Tensor, negatives: str
) -> float:
    """The class bank. To the student, all matched queries of a class are positives, each with its share, once
    for each object; to the teacher, every class that is annotated stands once."""
    total = 0.0
    known = bank.isfinite().all(-1).tolist()
    for layer, (b, target) in itertools.product(range(LAYERS), enumerate(targets)):
        photos = [b] if negatives == "image" else list(range(len(targets)))
        classes = sorted({c for p in photos for c in targets[p].concepts.tolist() if known[c]})
        everyone = [(p, q) for p in photos for q in range(output.region.shape[2])]
        own = [(q, int(target.concepts[m])) for q, m in pairs(matches, layer, b)]
        for c in classes:
            forth = [float(bank[c] @ output.region[layer, p, q].detach()) / TAU for p, q in everyone]
            positives = [everyone.index((b, q)) for q, concept in own if concept == c]
            if positives:
                shares = [slow_cross_entropy(forth, index) / len(positives) for index in positives]
                total += len(positives) * sum(shares) / 2
        for q, concept in own:
            if known[concept]:
                back = [float(output.region[layer, b, q].detach() @ bank[c]) / TAU for c in classes]
                total += slow_cross_entropy(back, classes.index(concept)) / 2
    return total


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_class_bank_equals_plain_loops(negatives: str) -> None:
    torch.manual_seed(3)
    config = replace(LossConfig(), teacher_bank="class", negatives=negatives)
    targets = [some_targets([0, 0, 3], [False, True, True]), some_targets([]), some_targets([3, 4])]
    bank = unit(CONCEPTS, WIDTH)
    bank[4] = math.nan
    output, text = some_output(3), unit(CONCEPTS, WIDTH)
    matches = match(output, targets, text, MatcherConfig())
    found = compute_losses(output, targets, matches, config, contrast=True, bank=bank, world_objects=1)
    expected = slow_class_contrast(output, targets, matches, bank, negatives)
    assert float(found["contrast"]) == pytest.approx(expected, rel=1e-4)
    found["total"].backward()
    assert all(bool(one.isfinite().all()) for one in gradients(output))


def test_class_bank_drawn_from_the_batch_is_one_valid_crop_of_each_class() -> None:
    torch.manual_seed(4)
    targets = [some_targets([0, 0, 1], [True, False, False]), some_targets([0, 2])]
    padded = pad_targets(targets)
    config = replace(LossConfig(), teacher_bank="class")
    seen = set()
    for _ in range(40):
        crops = contrast._teacher(padded, config, None, torch.float32, contrast.ALONE)
        teacher = crops.embeddings
        assert crops.known.tolist() == [[True, True, False], [True, True, False]]
        assert crops.candidate.tolist() == [[True, False, False], [True, True, False]]
        assert torch.equal(teacher[0, 0], teacher[0, 1])
        assert torch.equal(teacher[0, 0], teacher[1, 0])
        assert torch.equal(teacher[1, 1], targets[1].embeddings[1])
        assert not bool(teacher[0, 2].any())
        options = [targets[0].embeddings[0], targets[1].embeddings[0]]
        seen.add(next(k for k, one in enumerate(options) if torch.equal(teacher[0, 0], one)))
    assert seen == {0, 1}


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_contrast_gradient_by_finite_differences(negatives: str) -> None:
    torch.manual_seed(5)
    config = replace(LossConfig(), negatives=negatives, tau=0.5)
    targets = [some_targets([0, 3], [True, False]), some_targets([2, 2])]
    output, text = some_output(2), unit(CONCEPTS, WIDTH)
    matches = match(output, targets, text, MatcherConfig())
    padded = pad_targets(targets)
    region = output.region.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, padded, matches, config), region)


def test_halves_are_computed_in_single_precision() -> None:
    torch.manual_seed(6)
    targets, text, output = [some_targets([0, 1])], unit(CONCEPTS, WIDTH), some_output(1)
    matches = match(output, targets, text, MatcherConfig())
    rough = DetectorOutput(output.boxes, output.logits.bfloat16(), output.region)
    with torch.autocast("cpu", torch.bfloat16):
        found = compute_losses(rough, targets, matches, LossConfig(), contrast=True)
    assert all(one.dtype == torch.float32 for one in found.values())
    exact = compute_losses(output, targets, matches, LossConfig(), contrast=True)
    assert float(found["contrast"]) == float(exact["contrast"])
