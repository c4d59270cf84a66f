"""The regional contrast against plain loops over layers, images and objects."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cckt.detector.config.config import Config, changed
from cckt.detector.config.terms import RegionContrastConfig
from cckt.detector.losses.region_slots import merged_regions
from cckt.detector.losses.terms import region_contrast
from cckt.detector.losses.terms.region_contrast import Objects, contrastive_loss
from cckt.detector.losses.terms.term import ONE_RANK
from cckt.detector.students.contract import Pairs, StudentOutput
from cckt.detector.students.targets import Targets, pad_targets
from tests.detector.losses.hd_samples import EMPTY, MOST, USUAL, Scene, entries, prepared, some_scene
from tests.detector.students.samples import (
    CONCEPTS,
    LAYERS,
    TAU,
    WIDTH,
    embeddings_of,
    losses_of,
    matched,
    slow_cross_entropy,
    some_output,
    some_targets,
    unit,
    valid_of,
)

BATCHES = {
    "usual": [([0, 3], None), ([2], None), ([1, 1, 4], None)],
    "an empty image": [([0, 3], None), ([], None), ([4], None)],
    "no valid crop in an image": [([0, 3], [False, False]), ([2, 2], None)],
    "some invalid": [([0, 3, 1], [True, False, True]), ([2, 2], [False, True])],
    "more objects than regions": [([0, 1, 2, 3, 4, 0], [True, True, False, True, True, True]), ([1], None)],
}


def options(**values: object) -> Config:
    return changed(Config(), "terms.region_contrast", **values)


def pairs_of(pairs: Pairs, layer: int, image: int) -> list[tuple[int, int]]:
    regions, objects = pairs.of_image(layer, image)
    return list(zip(regions.tolist(), objects.tolist(), strict=True))


def slow_contrast(output: StudentOutput, targets: list[Targets], pairs: Pairs, negatives: str) -> float:
    """Eqs. 19 to 21 with the crop of each object, summed over objects."""
    total = 0.0
    for layer, (b, target) in itertools.product(range(LAYERS), enumerate(targets)):
        images = [b] if negatives == "image" else range(len(targets))
        regions = [(p, q) for p in images for q in range(output.region.shape[2])]
        objects = [(p, m) for p in images for m in range(len(targets[p])) if bool(valid_of(targets[p])[m])]
        for q, m in pairs_of(pairs, layer, b):
            if bool(valid_of(target)[m]):
                r, e = embeddings_of(target)[m], output.region[layer, b, q].detach()
                forth = [float(r @ output.region[layer, p, j].detach()) / TAU for p, j in regions]
                back = [float(e @ embeddings_of(targets[p])[j]) / TAU for p, j in objects]
                total += slow_cross_entropy(forth, regions.index((b, q))) / 2
                total += slow_cross_entropy(back, objects.index((b, m))) / 2
    return total


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_contrast_equals_plain_loops(
    batch: list[tuple[list[int], list[bool] | None]], negatives: str
) -> None:
    torch.manual_seed(0)
    targets = [some_targets(*one) for one in batch]
    output, text = some_output(len(batch)), unit(CONCEPTS, WIDTH)
    pairs = matched(output, targets, text)
    found = losses_of(output, targets, pairs, options(negatives=negatives), contrast=True)
    expected = slow_contrast(output, targets, pairs, negatives)
    objects = sum(len(one) for one in targets)
    assert float(found["contrast"]) == pytest.approx(expected / objects, rel=1e-4, abs=1e-5)
    found["total"].backward()
    assert output.region.grad is not None
    assert bool(output.region.grad.isfinite().all())


def slow_class_contrast(
    output: StudentOutput, targets: list[Targets], pairs: Pairs, bank: Tensor, negatives: str
) -> float:
    """Eq. 22. Towards the student, all paired regions of a class are positives with equal shares, once per
    object; towards the teacher, every annotated class is one candidate."""
    total = 0.0
    known = bank.isfinite().all(-1).tolist()
    for layer, (b, target) in itertools.product(range(LAYERS), enumerate(targets)):
        images = [b] if negatives == "image" else list(range(len(targets)))
        classes = sorted({c for p in images for c in targets[p].concepts.tolist() if known[c]})
        everyone = [(p, q) for p in images for q in range(output.region.shape[2])]
        own = [(q, int(target.concepts[m])) for q, m in pairs_of(pairs, layer, b)]
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
    """Every class has one valid crop in the batch, so the draw is unique; class 4 has none."""
    torch.manual_seed(3)
    targets = [
        some_targets([0, 0, 3], [False, True, True]),
        some_targets([]),
        some_targets([3, 4], [False, False]),
    ]
    bank = torch.full((CONCEPTS, WIDTH), math.nan)
    bank[0], bank[3] = embeddings_of(targets[0])[1], embeddings_of(targets[0])[2]
    output, text = some_output(3), unit(CONCEPTS, WIDTH)
    pairs = matched(output, targets, text)
    config = options(teacher_bank="class", negatives=negatives)
    found = losses_of(output, targets, pairs, config, contrast=True, divisor=1)
    expected = slow_class_contrast(output, targets, pairs, bank, negatives)
    assert float(found["contrast"]) == pytest.approx(expected, rel=1e-4)
    found["total"].backward()
    assert output.region.grad is not None
    assert bool(output.region.grad.isfinite().all())


def test_class_bank_is_one_valid_crop_of_each_class_drawn_from_the_batch() -> None:
    torch.manual_seed(4)
    targets = [some_targets([0, 0, 1], [True, False, False]), some_targets([0, 2])]
    objects = Objects.of(pad_targets(targets))
    seen = set()
    for _ in range(40):
        crops = region_contrast._crops(
            objects, RegionContrastConfig(teacher_bank="class"), torch.float32, ONE_RANK
        )
        teacher = crops.embeddings
        assert crops.known.tolist() == [[True, True, False], [True, True, False]]
        assert crops.candidate.tolist() == [[True, False, False], [True, True, False]]
        assert torch.equal(teacher[0, 0], teacher[0, 1])
        assert torch.equal(teacher[0, 0], teacher[1, 0])
        assert torch.equal(teacher[1, 1], embeddings_of(targets[1])[1])
        assert not bool(teacher[0, 2].any())
        choices = [embeddings_of(targets[0])[0], embeddings_of(targets[1])[0]]
        seen.add(next(k for k, one in enumerate(choices) if torch.equal(teacher[0, 0], one)))
    assert seen == {0, 1}


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_gradient_equals_finite_differences(negatives: str) -> None:
    torch.manual_seed(5)
    targets = [some_targets([0, 3], [True, False]), some_targets([2, 2])]
    output, text = some_output(2), unit(CONCEPTS, WIDTH)
    pairs, objects = matched(output, targets, text), Objects.of(pad_targets(targets))
    region = output.region.detach().double().requires_grad_()
    section = RegionContrastConfig(negatives=negatives)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, objects, pairs, section, 0.5), region)


def slow_contrast_with_proposals(scene: Scene, negatives: str) -> float:
    """Eqs. 19 to 21 where crops of proposals are further rows and candidates."""
    total = 0.0
    teachers = {}
    for b, one in enumerate(scene.targets):
        for name, count in (("crop", len(one)), ("proposal_crop", MOST)):
            rows = one.teacher[name]
            for at in range(min(count, len(rows.valid))):
                if bool(rows.valid[at]):
                    teachers[b, name, at] = rows.values[at]
    for layer in range(LAYERS):
        region = scene.output.region[layer].detach()
        for name, pairs in (("crop", scene.pairs), ("proposal_crop", scene.pairs.proposals)):
            for b, q, at in entries(pairs, layer):
                if (b, name, at) not in teachers:
                    continue
                images = [b] if negatives == "image" else range(len(scene.targets))
                everyone = [(p, n) for p in images for n in range(region.shape[1])]
                crops = [key for key in teachers if key[0] in images]
                forth = [float(teachers[b, name, at] @ region[p, n]) / TAU for p, n in everyone]
                back = [float(region[b, q] @ teachers[key]) / TAU for key in crops]
                total += slow_cross_entropy(forth, everyone.index((b, q))) / 2
                total += slow_cross_entropy(back, crops.index((b, name, at))) / 2
    return total


@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize("case", [USUAL, EMPTY], ids=["usual", "empty"])
def test_proposals_are_further_rows_and_candidates(case: Any, negatives: str) -> None:
    invalid = [(0, "crop", 1), (0, "proposal_crop", 2)] if case is USUAL else []
    scene = some_scene(*case, invalid=invalid)
    section = RegionContrastConfig(proposals=True, negatives=negatives)  # type: ignore[arg-type]
    found = prepared(region_contrast.RegionContrast, section, scene)(scene.step())["contrast"]
    expected = slow_contrast_with_proposals(scene, negatives)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    found.backward()  # type: ignore[no-untyped-call]
    assert scene.output.region.grad is not None
    assert bool(scene.output.region.grad.isfinite().all())
    assert region_contrast.RegionContrast.rows_of(section, True) == ("crop", "proposal_crop")
    assert region_contrast.RegionContrast.rows_of(RegionContrastConfig(), True) == ("crop",)


def test_proposals_change_nothing_unless_asked_for() -> None:
    scene = some_scene(*USUAL)
    bare = replace(scene.step(), pairs=replace(scene.pairs, proposals=None))
    off, on = (
        prepared(region_contrast.RegionContrast, RegionContrastConfig(proposals=asked), scene)
        for asked in (False, True)
    )
    assert float(off(scene.step())["contrast"].detach()) == float(off(bare)["contrast"].detach())
    assert float(on(scene.step())["contrast"].detach()) != float(off(bare)["contrast"].detach())


def test_proposals_keep_their_own_crops_in_a_class_bank() -> None:
    scene = some_scene([[0, 0], [0]], [[5, 6], [5]])
    targets = scene.step().targets
    objects = Objects.of(targets).with_proposals(targets)
    for _ in range(10):
        crops = region_contrast._crops(
            objects, RegionContrastConfig(teacher_bank="class"), torch.float32, ONE_RANK
        )
        assert crops.known.tolist() == [[True, True, True, True], [True, False, True, False]]
        assert torch.equal(crops.embeddings[0, 2], scene.targets[0].teacher["proposal_crop"].values[0])
        assert torch.equal(crops.embeddings[1, 2], scene.targets[1].teacher["proposal_crop"].values[0])
        assert crops.candidate[:, 2:].tolist() == [[True, True], [True, False]]


def test_several_regions_of_an_object_are_one_mean_and_free_ones_are_candidates() -> None:
    torch.manual_seed(0)
    region = torch.nn.functional.normalize(torch.randn(1, 2, 5, WIDTH), dim=-1)
    # image 0: regions 0 and 3 show object 1, region 1 shows object 0, 2 is free, 4 is padding; image 1: none
    pairs = Pairs(torch.tensor([0, 0, 0]), torch.tensor([[0, 3, 1]]), torch.tensor([[1, 1, 0]]))
    kept = torch.tensor([[True, True, True, True, False], [True] * 5])
    merged, own, alive = merged_regions(region, pairs, kept, 2)
    assert merged.shape == (1, 2, 7, WIDTH)
    assert own.images.tolist() == [0, 0]
    assert own.regions.tolist() == own.objects.tolist() == [[0, 1]]
    torch.testing.assert_close(merged[0, 0, 0], region[0, 0, 1])
    both = region[0, 0, 0] + region[0, 0, 3]
    torch.testing.assert_close(merged[0, 0, 1], both / both.norm())
    assert alive.tolist() == [[True, True, False, False, True, False, False], [False, False, *[True] * 5]]
    options = RegionContrastConfig()
    crops = torch.nn.functional.normalize(torch.randn(2, 2, WIDTH), dim=-1)
    known = torch.tensor([[True, True], [False, False]])
    objects = Objects(torch.tensor([[0, 1], [0, 0]]), known, crops, known)
    found = contrastive_loss(merged, objects, own, options, 0.5, kept=alive)
    expected = 0.0
    rows = [merged[0, 0, 0], merged[0, 0, 1], region[0, 0, 2]]
    for k in range(2):
        to_student = torch.stack([crops[0, k] @ one / 0.5 for one in rows])
        to_teacher = torch.stack([crops[0, j] @ rows[k] / 0.5 for j in range(2)])
        expected += float(to_student.logsumexp(0) - to_student[k]) / 2
        expected += float(to_teacher.logsumexp(0) - to_teacher[k]) / 2
    assert float(found) == pytest.approx(expected, rel=1e-4)
