"""The whole student on tiny photos, and its backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config
from cckt.detector.students.backbone import Backbone
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


def test_shapes_ranges_and_the_first_probabilities(model: DeformableDETR) -> None:
    text = unit(CONCEPTS, WIDTH)
    with torch.no_grad():
        found = model(torch.randn(2, 3, 61, 48), None, text, present(text, [1, 2], []))
    assert found.boxes.shape == (2, 2, 7, 4)
    assert found.logits.shape == (2, 2, 7, CONCEPTS)
    assert found.region.shape == (2, 2, 7, WIDTH)
    assert bool(((found.boxes > 0) & (found.boxes < 1)).all())
    torch.testing.assert_close(found.region.norm(dim=-1), torch.ones(2, 2, 7))
    assert found.last().boxes.shape == (1, 2, 7, 4)
    # The prior: sigmoid(bias) is 0.01 exactly where the cosine is 0.
    assert torch.sigmoid(model.class_heads[0].bias).item() == pytest.approx(0.01)


def test_a_large_vocabulary_starts_near_one_percent() -> None:
    torch.manual_seed(0)
    wide = student(TINY, 256).eval()
    with torch.no_grad():
        found = wide(torch.randn(1, 3, 64, 64), None, unit(200, 256), None)
    assert 0.007 < float(found.logits.sigmoid().mean()) < 0.02


@pytest.mark.parametrize("strides", [(4, 8, 16), (8, 16), (16,)])
@pytest.mark.parametrize("levels", [3, 4])
def test_any_strides_and_levels(strides: tuple[int, ...], levels: int) -> None:
    config = replace(TINY, strides=strides, levels=levels, encoder_layers=0, decoder_layers=1)
    text = unit(CONCEPTS, WIDTH)
    found = student(config)(torch.randn(1, 3, 64, 144), None, text, None)
    assert found.boxes.shape == (1, 1, 7, 4)


def test_batched_equals_single_photos_whatever_the_padding(model: DeformableDETR) -> None:
    torch.manual_seed(1)
    text = unit(CONCEPTS, WIDTH)
    big, small = torch.randn(3, 64, 96), torch.randn(3, 32, 64)
    images, padding = torch.zeros(2, 3, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool)
    images[0], padding[0] = big, False
    images[1, :, :32, :64], padding[1, :32, :64] = small, False
    with torch.no_grad():
        joint = model(images, padding, text, present(text, [0, 3], [1]))
        alone = model(big[None], None, text, present(text, [0, 3]))
        masked = model(big[None], padding[:1], text, present(text, [0, 3]))
        second = model(images[1:], padding[1:], text, present(text, [1]))
    for name in ("boxes", "logits", "region"):
        torch.testing.assert_close(getattr(joint, name)[:, :1], getattr(alone, name), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(getattr(masked, name), getattr(alone, name), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(getattr(joint, name)[:, 1:], getattr(second, name), atol=1e-4, rtol=1e-4)


def test_guidance_moves_only_photos_that_have_it(model: DeformableDETR) -> None:
    text, images = unit(CONCEPTS, WIDTH), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        bare = model(images, None, text, None)
        half = model(images, None, text, present(text, [2], []))
        many = model(images, None, text, present(text, list(range(5)) * 2, [0]))  # more concepts than queries
    assert not torch.allclose(bare.region[:, 0], half.region[:, 0])
    torch.testing.assert_close(bare.region[:, 1], half.region[:, 1])
    assert bool(many.region.isfinite().all())


def test_the_class_head_scores_each_concept_by_itself(model: DeformableDETR) -> None:
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
    # DDP needs every parameter in the graph on every rank, whatever is in the photos.
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


def test_norms() -> None:
    batch = Backbone(TINY)
    assert any(isinstance(one, nn.BatchNorm2d) for one in batch.modules())
    frozen = Backbone(replace(TINY, norm="frozen"))
    group = Backbone(replace(TINY, norm="group"))
    for one in (frozen, group):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in one.modules())
    assert any(isinstance(module, nn.GroupNorm) for module in group.modules())
    images = torch.randn(2, 3, 48, 48)
    frozen.net.load_state_dict(batch.net.state_dict(), strict=False)
    batch.eval()
    for mine, other in zip(frozen(images), batch(images), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_weights_from_a_file_freeze_the_first_stage(tmp_path: Path) -> None:
    torch.manual_seed(4)
    source = Backbone(TINY)
    path = tmp_path / "weights.safetensors"
    save_file(source.net.state_dict(), path)
    config = replace(TINY, backbone_weights=str(path))
    loaded = Backbone(config)
    images = torch.randn(1, 3, 32, 32)
    for mine, other in zip(loaded(images), source.eval()(images), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
    frozen = [name for name, one in loaded.named_parameters() if not one.requires_grad]
    assert any("conv1" in name or "stem" in name for name in frozen)
    assert any("stages_0" in name or "layer1" in name for name in frozen)
    assert not any("stages_1" in name or "layer2" in name for name in frozen)
    assert all(one.requires_grad for one in Backbone(replace(config, freeze_stride=0)).parameters())
    # A checkpoint follows: the file is not needed, the shape of the model is the same.
    path.unlink()
    again = Backbone(config, pretrained=False)
    assert again.state_dict().keys() == loaded.state_dict().keys()


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"weights\.safetensors lacks \d+ tensors of the backbone"):
        Backbone(replace(TINY, backbone_weights=str(path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnot50"}, "option model.backbone: timm knows no 'resnot50'"),
        ({"backbone": "test_vit"}, "option model.strides: found"),
        ({"strides": (8, 64)}, r"option model.strides: found \[8, 64\], but 'test_resnet' has strides"),
        (
            {"backbone_weights": "nowhere.safetensors"},
            "option model.backbone_weights: found 'nowhere.safetensors'",
        ),
        ({"backbone_weights": "weights.pth"}, "option model.backbone_weights: found 'weights.pth'"),
    ],
)
def test_backbone_mistakes(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Backbone(replace(TINY, **changes))
