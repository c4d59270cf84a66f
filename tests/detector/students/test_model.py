"""The whole student on tiny images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config
from cckt.detector.students.build import build_student
from cckt.detector.students.contract import PresentText
from cckt.detector.students.deformable_detr.model import DeformableDETR
from tests.detector.students.samples import (
    CONCEPTS,
    TINY,
    WIDTH,
    losses_of,
    matched,
    some_targets,
    student,
    unit,
)


def present(text: Tensor, *rows: list[int]) -> PresentText:
    return PresentText.gather(text, [torch.tensor(one, dtype=torch.int64) for one in rows])


@pytest.fixture(scope="module")
def model() -> DeformableDETR:
    torch.manual_seed(0)
    return student(TINY).eval()


def test_shapes_ranges_and_initial_probabilities(model: DeformableDETR) -> None:
    text = unit(CONCEPTS, WIDTH)
    with torch.no_grad():
        found = model(torch.randn(2, 3, 61, 48), None, text, present(text, [1, 2], []))
    assert found.boxes.shape == (2, 2, 7, 4)
    assert found.logits.shape == (2, 2, 7, CONCEPTS)
    assert found.region.shape == (2, 2, 7, WIDTH)
    assert bool(((found.boxes > 0) & (found.boxes < 1)).all())
    torch.testing.assert_close(found.region.norm(dim=-1), torch.ones(2, 2, 7))
    assert found.last().boxes.shape == (1, 2, 7, 4)
    # The probability is 0.01 where the cosine is 0.
    assert torch.sigmoid(model.class_heads[0].bias).item() == pytest.approx(0.01)


def test_a_large_vocabulary_starts_near_one_percent() -> None:
    torch.manual_seed(0)
    wide = student(TINY, 256).eval()
    with torch.no_grad():
        found = wide(torch.randn(1, 3, 64, 64), None, unit(200, 256), None)
    assert 0.007 < float(found.logits.sigmoid().mean()) < 0.02


@pytest.mark.parametrize("strides", [(4, 8, 16), (8, 16), (16,)])
@pytest.mark.parametrize("levels", [3, 4])
def test_any_strides_and_levels_work(strides: tuple[int, ...], levels: int) -> None:
    config = replace(TINY, strides=strides, levels=levels, encoder_layers=0, decoder_layers=1)
    text = unit(CONCEPTS, WIDTH)
    found = student(config)(torch.randn(1, 3, 64, 144), None, text, None)
    assert found.boxes.shape == (1, 1, 7, 4)


def test_a_batch_equals_its_images_one_by_one_with_any_padding(model: DeformableDETR) -> None:
    torch.manual_seed(1)
    text = unit(CONCEPTS, WIDTH)
    big, small = torch.randn(3, 64, 96), torch.randn(3, 32, 64)
    images, padding = torch.zeros(2, 3, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool)
    images[0], padding[0] = big, False
    images[1, :, :32, :64], padding[1, :32, :64] = small, False
    with torch.no_grad():
        batched = model(images, padding, text, present(text, [0, 3], [1]))
        single = model(big[None], None, text, present(text, [0, 3]))
        masked = model(big[None], padding[:1], text, present(text, [0, 3]))
        second = model(images[1:], padding[1:], text, present(text, [1]))
    for name in ("boxes", "logits", "region"):
        torch.testing.assert_close(getattr(batched, name)[:, :1], getattr(single, name), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(getattr(masked, name), getattr(single, name), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(getattr(batched, name)[:, 1:], getattr(second, name), atol=1e-4, rtol=1e-4)


def test_guidance_changes_only_images_that_have_it(model: DeformableDETR) -> None:
    text, images = unit(CONCEPTS, WIDTH), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        bare = model(images, None, text, None)
        half = model(images, None, text, present(text, [2], []))
        many = model(images, None, text, present(text, list(range(5)) * 2, [0]))  # more concepts than queries
    assert not torch.allclose(bare.region[:, 0], half.region[:, 0])
    torch.testing.assert_close(bare.region[:, 1], half.region[:, 1])
    assert bool(many.region.isfinite().all())


def test_class_logits_of_a_concept_do_not_depend_on_other_concepts(model: DeformableDETR) -> None:
    text, images = unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        full = model(images, None, text, None)
        part = model(images, None, text[[3, 1]], None)
    torch.testing.assert_close(full.logits[..., [3, 1]], part.logits)


@pytest.mark.parametrize(
    ("changes", "guidance"), [({}, True), ({"class_embedding": "region"}, True), ({}, False)]
)
@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_gets_a_finite_gradient(
    changes: dict[str, object], guidance: bool, objects: bool
) -> None:
    torch.manual_seed(2)
    model = student(replace(TINY, **changes), guidance=guidance)
    text = unit(CONCEPTS, WIDTH)
    targets = [some_targets([0, 3] if objects else []), some_targets([])]
    given = present(text, [0, 3], []) if objects else present(text, [], [])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 48, 48), None, text, given)
    assert output.boxes.dtype == output.logits.dtype == output.region.dtype == torch.float32
    losses_of(output, targets, matched(output, targets, text), contrast=objects)["total"].backward()
    # DDP needs every parameter in the graph on every rank, for all images.
    missing = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert missing == []
    assert all(bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None)


def test_it_learns_one_image() -> None:
    torch.manual_seed(3)
    model = student(TINY)
    text, images = unit(CONCEPTS, WIDTH), torch.randn(1, 3, 48, 48)
    targets = [some_targets([0, 3])]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(15):
        output = model(images, None, text, present(text, [0, 3]))
        found = losses_of(output, targets, matched(output, targets, text), contrast=True)
        optimizer.zero_grad()
        found["total"].backward()
        optimizer.step()
        totals.append(float(found["total"].detach()))
    assert totals[-1] < 0.7 * totals[0]


def test_an_unknown_student_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"option model\.student: found 'yolo', expected one of 'deformable_detr'"
    ):
        build_student(Config(model=replace(TINY, student="yolo")), WIDTH)
