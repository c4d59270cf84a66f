"""Backbones of every family: images of any size, norms, frozen stages, drop path, messages; the pyramid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import ModelConfig
from cckt.detector.students.backbones.backbone import Backbone
from cckt.detector.students.contract import PresentText
from cckt.detector.students.deformable_detr.model import DeformableDETR
from tests.detector.students.backbones.tiny_backbones import BACKBONES, WINDOWS
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

STRIDES = (8, 16, 32)
SIZES = ((61, 75), (97, 33), (160, 224))


def config(backbone: str, **changes: object) -> ModelConfig:
    return replace(TINY, backbone=backbone, strides=STRIDES, levels=4, **changes)


def map_sizes(maps: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(one.shape[-2:]) for one in maps]


def ceil_sizes(height: int, width: int) -> list[tuple[int, int]]:
    return [(-(-height // stride), -(-width // stride)) for stride in STRIDES]


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_of_images_of_any_size_have_ceil_of_side_over_stride_cells(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(config(name)).eval()
    with torch.no_grad():
        for height, width in (*SIZES, (1, 40), (5, 3)):
            maps = backbone(torch.randn(2, 3, height, width))
            assert map_sizes(maps) == ceil_sizes(height, width), (height, width)
            assert [one.shape[1] for one in maps] == backbone.channels
            assert all(bool(one.isfinite().all()) for one in maps)


@pytest.mark.parametrize("name", WINDOWS)
def test_padding_by_the_backbone_equals_padding_of_the_image(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(config(name)).eval()
    multiple = backbone.sides.multiple
    assert multiple > 1
    image = torch.randn(1, 3, 61, 75)
    padded = functional.pad(image, (0, -75 % multiple, 0, -61 % multiple))
    with torch.no_grad():
        for mine, whole in zip(backbone(image), backbone(padded), strict=True):
            assert torch.equal(mine, whole[..., : mine.shape[-2], : mine.shape[-1]])


@pytest.mark.parametrize("name", ["test_resnet", "pvt_v2_test"])
def test_backbones_for_any_size_get_the_image_unchanged(name: str) -> None:
    backbone = Backbone(config(name)).eval()
    image = torch.randn(1, 3, 61, 75)
    with torch.no_grad():
        for mine, expected in zip(backbone(image), backbone.net(image), strict=True):
            assert torch.equal(mine, expected)


@pytest.fixture(scope="module", params=BACKBONES)
def model(request: pytest.FixtureRequest) -> DeformableDETR:
    torch.manual_seed(0)
    return student(config(request.param))


def batch_of_sizes() -> tuple[Tensor, Tensor]:
    """Images of `SIZES` in one batch, and their padding."""
    torch.manual_seed(1)
    height, width = (max(size[axis] for size in SIZES) for axis in (0, 1))
    images, padding = torch.zeros(3, 3, height, width), torch.ones(3, height, width, dtype=torch.bool)
    for row, (h, w) in enumerate(SIZES):
        images[row, :, :h, :w], padding[row, :h, :w] = torch.randn(3, h, w), False
    return images, padding


def test_a_batch_equals_its_images_one_by_one(model: DeformableDETR) -> None:
    images, padding = batch_of_sizes()
    text = unit(CONCEPTS, WIDTH)
    model.eval()
    with torch.no_grad():
        joint = model(images, padding, text, None)
        for row in range(len(SIZES)):
            single = model(images[row : row + 1], padding[row : row + 1], text, None)
            for name in ("boxes", "logits", "region"):
                found, expected = getattr(joint, name)[:, row : row + 1], getattr(single, name)
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_padding_masks_and_reference_points_have_the_sizes_of_the_maps(model: DeformableDETR) -> None:
    images, padding = batch_of_sizes()
    model.eval()
    with torch.no_grad():
        encoded = model.encode(images[:1], padding[:1])
    assert encoded.shapes == [*ceil_sizes(160, 224), (3, 4)]
    starts = [0]
    for height, width in encoded.shapes:
        starts.append(starts[-1] + height * width)
    for level, stride in enumerate(STRIDES):
        height, width = encoded.shapes[level]
        kept = encoded.keep[0, starts[level] : starts[level + 1], 0].view(height, width)
        # Nearest: a cell is kept if the pixel at its upper left corner is in the image of 61 x 75 pixels.
        rows, columns = torch.arange(height) * stride < 61, torch.arange(width) * stride < 75
        assert torch.equal(kept, rows[:, None] & columns)
        ratio = torch.stack([columns.float().mean(), rows.float().mean()])
        torch.testing.assert_close(encoded.ratios[0, level], ratio)


def test_training_on_odd_sizes_gives_finite_gradients(model: DeformableDETR) -> None:
    images, padding = batch_of_sizes()
    text = unit(CONCEPTS, WIDTH)
    targets = [some_targets([0, 3]), some_targets([]), some_targets([1])]
    model.train()
    model.zero_grad()
    output = model(images, padding, text, PresentText.gather(text, [torch.tensor([0, 3])] * 3))
    losses_of(output, targets, matched(output, targets, text), contrast=True)["total"].backward()
    assert all(bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None)
    backbone = [one.grad for one in model.backbone.parameters()]
    assert all(one is not None for one in backbone)
    assert any(bool(one.any()) for one in backbone if one is not None)


@pytest.mark.parametrize("name", ["swin_test", "swinv2_test", "test_maxvit", "test_convnext"])
def test_a_graph_of_an_odd_size_equals_the_backbone(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(config(name)).eval()
    with torch.no_grad():
        batch = {0: torch.export.Dim("batch", min=1, max=64)}
        images = torch.randn(2, 3, 65, 97)
        graph = torch.export.export(backbone, (images,), dynamic_shapes={"images": batch}).module()
        images = torch.randn(3, 3, 65, 97)
        for mine, expected in zip(graph(images), backbone(images), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


def test_a_graph_of_patches_for_any_size_equals_the_backbone() -> None:
    torch.manual_seed(0)
    backbone = Backbone(config("test_convnext")).eval()
    sides = {2: torch.export.Dim("height", min=64, max=512), 3: torch.export.Dim("width", min=64, max=512)}
    with torch.no_grad():
        images = torch.randn(1, 3, 75, 101)
        graph = torch.export.export(backbone, (images,), dynamic_shapes={"images": sides}).module()
        for size in ((75, 101), (130, 99), (64, 128)):
            images = torch.randn(1, 3, *size)
            for mine, expected in zip(graph(images), backbone(images), strict=True):
                torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


def test_a_graph_of_swin_for_any_size_is_refused_at_once() -> None:
    backbone = Backbone(config("swin_test")).eval()
    sides = {2: torch.export.Dim("height", min=64, max=512), 3: torch.export.Dim("width", min=64, max=512)}
    with pytest.raises(RuntimeError, match="the attention masks of Swin depend on the size of the images"):
        torch.export.export(backbone, (torch.randn(1, 3, 75, 101),), dynamic_shapes={"images": sides})


def test_a_backbone_for_images_of_one_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"option model\.backbone: 'test_coatnet' accepts only images of one"):
        Backbone(config("test_coatnet"))


def test_swin_shifts_the_windows_of_its_last_stage() -> None:
    blocks = Backbone(config("swin_test")).net.layers_3.blocks
    assert [block.shift_size for block in blocks] == [(0, 0), (3, 3)]


@pytest.mark.parametrize("name", ["test_resnet", "swin_test"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_drop_path_rises_from_0_to_the_rate(name: str, rate: float) -> None:
    found = [
        module.drop_prob
        for module in Backbone(config(name, drop_path=rate)).modules()
        if type(module).__name__ == "DropPath"
    ]
    assert max(found, default=0.0) == pytest.approx(rate)
    assert found == sorted(found)
    assert bool(found) == bool(rate)


def test_drop_path_of_a_backbone_without_it_is_refused() -> None:
    plain = config("vgg11")
    assert timm.is_model("vgg11")
    with pytest.raises(UserError, match=r"model\.drop_path: found 0\.2, but 'vgg11' has no drop path"):
        Backbone(replace(plain, drop_path=0.2))


def test_norms_are_trained_frozen_or_replaced() -> None:
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnot50"}, "option model.backbone: timm has no model 'resnot50'"),
        ({"backbone": "test_vit"}, "option model.strides: found"),
        ({"strides": (8, 64)}, r"option model.strides: found \[8, 64\], but 'test_resnet' has strides"),
        (
            {"backbone": "convnext_atto", "backbone_weights": "tag:tv_in1k"},
            r"model.backbone_weights: timm has no weights 'convnext_atto.tv_in1k', expected tag:d2_in1k; use",
        ),
    ],
)
def test_mistakes_name_the_option(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Backbone(replace(TINY, **changes))
