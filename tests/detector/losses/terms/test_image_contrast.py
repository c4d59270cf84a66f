"""Image contrast against plain loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cckt.detector.config.terms import ImageContrastConfig
from cckt.detector.losses.terms.image_contrast import ImageContrast
from cckt.detector.losses.terms.term import StepInputs, Term
from tests.detector.losses.hd_samples import (
    USUAL,
    Scene,
    on_ranks,
    prepared,
    sizes,
    slow_contrast,
    some_scene,
)

OPTIONS = ImageContrastConfig(weight=0.5, queue=4)


def value(term: Term, step: StepInputs) -> Tensor:
    return term(step)["image_contrast"]


def rows(scene: Scene) -> tuple[list[Tensor], list[Tensor]]:
    """Student and teacher rows of the images that have one."""
    assert scene.output.image is not None
    known = [b for b, one in enumerate(scene.targets) if bool(one.teacher["image"].valid[0])]
    students = [scene.output.image[b].detach() for b in known]
    return students, [scene.targets[b].teacher["image"].values[0] for b in known]


@pytest.mark.parametrize("invalid", [[], [(1, "image", 0)], [(b, "image", 0) for b in range(3)]])
def test_three_steps_equal_plain_loops(invalid: list[tuple[int, str, int]]) -> None:
    term = prepared(ImageContrast, OPTIONS, some_scene(*USUAL))
    past: tuple[list[Tensor], list[Tensor]] = ([], [])
    for seed in range(3):
        scene = some_scene(*USUAL, seed, invalid=invalid)
        students, teachers = rows(scene)
        expected = 0.5 * slow_contrast(students, teachers, *past, 20)
        past = ([*past[0], *students][-4:], [*past[1], *teachers][-4:])
        loss = value(term, scene.step())
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        loss.backward()  # type: ignore[no-untyped-call]
        assert scene.output.image is not None
        assert scene.output.image.grad is not None
        assert bool(scene.output.image.grad.isfinite().all())
    assert term.normalised


def test_a_single_image_is_compared_with_the_queue() -> None:
    term = prepared(ImageContrast, OPTIONS, some_scene(*USUAL))
    assert float(value(term, some_scene([[0]], [[]]).step()).detach()) == pytest.approx(0, abs=1e-5)
    assert float(value(term, some_scene([[0]], [[]], 1).step()).detach()) > 0


@pytest.mark.parametrize("negatives", ["rank", "world"])
def test_two_ranks_share_the_queue(negatives: Any) -> None:
    options = replace(OPTIONS, negatives=negatives)
    images = ([[0], [2], [1], [4]], [[5], [6], [5], []])
    scene = some_scene(*images)
    alone, *ranks = [prepared(ImageContrast, options, scene) for _ in range(3)]
    for seed in range(2):
        scene = some_scene(*images, seed)
        halves = [scene.subset([0, 1]), scene.subset([2, 3])]
        whole = value(alone, scene.step())

        def act(number: int, halves: list[Scene] = halves) -> Any:
            padding = sizes(halves[0])
            return lambda rank: value(ranks[number], halves[number].step(rank, *padding))

        mean = torch.stack(on_ranks([act(0), act(1)])).mean()
        if negatives == "world":
            assert float(mean.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
        for name, state in alone.state_dict().items():
            assert torch.equal(ranks[0].state_dict()[name], state)
            assert torch.equal(ranks[1].state_dict()[name], state)
