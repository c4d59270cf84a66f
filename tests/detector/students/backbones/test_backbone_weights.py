"""Weights of a backbone from a file: timm's names, our names, and files that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.recipes import recipe
from cckt.detector.students.backbones.backbone import Backbone
from cckt.detector.students.backbones.backbone_weights import _name_in, load_backbone
from tests.detector.students.backbones.tiny_backbones import BACKBONES
from tests.detector.students.samples import TINY


def whole_model(name: str, path: Path) -> dict[str, torch.Tensor]:
    """Save the weights of timm's whole classification model, as on the hub; return them."""
    torch.manual_seed(4)
    state = timm.create_model(name, pretrained=False).state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.add_(torch.rand_like(value) * 0.1)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return dict(state)


@pytest.mark.parametrize("name", [*BACKBONES, "resnet10t"])
def test_a_file_of_the_whole_model_loads(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    stored = whole_model(name, path)
    config = replace(TINY, backbone=name, backbone_weights=str(path), norm="batch")
    own = Backbone(config).net.state_dict()
    assert len(own) > 10
    by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for value in stored.values():
        by_shape.setdefault(tuple(value.shape), []).append(value)
    for key, value in own.items():
        assert any(torch.equal(value, one) for one in by_shape[tuple(value.shape)]), key


@pytest.mark.parametrize("name", ["test_resnet", "swinv2_test", "test_convnext", "pvt_v2_test"])
def test_maps_equal_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    stored = whole_model(name, path)
    backbone = Backbone(replace(TINY, backbone=name, backbone_weights=str(path))).eval()
    whole = timm.create_model(name, pretrained=False).eval()
    whole.load_state_dict(stored)
    side = whole.default_cfg["input_size"][1]
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        expected = {
            one.shape[-1]: one for one in whole.forward_intermediates(images, intermediates_only=True)
        }
        for one in backbone(images):
            torch.testing.assert_close(one, expected[one.shape[-1]], atol=1e-4, rtol=1e-4)


def test_a_file_of_the_feature_maps_loads_and_the_first_stage_is_frozen(tmp_path: Path) -> None:
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
    # A checkpoint follows: the file is not needed, and the names of the tensors are the same.
    path.unlink()
    again = Backbone(config, pretrained=False)
    assert again.state_dict().keys() == loaded.state_dict().keys()


def test_batch_norms_of_frozen_layers_keep_their_statistics(tmp_path: Path) -> None:
    save_file(Backbone(TINY).net.state_dict(), tmp_path / "weights.safetensors")
    config = replace(TINY, backbone_weights=str(tmp_path / "weights.safetensors"), norm="batch")
    backbone = Backbone(config).train()
    frozen = {name.rpartition(".")[0] for name, one in backbone.named_parameters() if not one.requires_grad}
    before = {name: one.clone() for name, one in backbone.named_buffers() if name.endswith("running_mean")}
    backbone(torch.randn(2, 3, 64, 64) + 3)
    after = dict(backbone.named_buffers())
    moved = {name.rpartition(".")[0] for name, one in before.items() if not torch.equal(one, after[name])}
    assert moved
    assert not moved & frozen


def test_the_first_stages_of_an_efficientnet_are_frozen(tmp_path: Path) -> None:
    """timm keeps its stages in one child, "blocks"."""
    config = replace(TINY, backbone="tf_efficientnet_lite0", strides=(8, 16, 32), levels=3)
    save_file(Backbone(config).net.state_dict(), tmp_path / "weights.safetensors")
    loaded = Backbone(replace(config, backbone_weights=str(tmp_path / "weights.safetensors")))
    frozen = {name for name, one in loaded.net.named_parameters() if not one.requires_grad}
    stages = ("conv_stem.", "blocks.0.", "blocks.1.")
    assert frozen == {name for name, _ in loaded.net.named_parameters() if name.startswith(stages)}
    assert {name.split(".")[1] for name in frozen if name.startswith("blocks")} == {"0", "1"}


@pytest.mark.parametrize(
    ("name", "stored", "expected"),
    [
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("layers_0.blocks.0.norm1.bias", "layers.0.blocks.0.norm1.bias", "layers.0.blocks.0.norm1.bias"),
        ("patch_embed.proj.weight", "patch_embed.proj.weight", "patch_embed.proj.weight"),
        ("model.stages.0.norm.weight", "stages.0.norm.weight", "stages.0.norm.weight"),
        ("layers_0.norm.weight", "layers.1.norm.weight", None),
    ],
)
def test_names_are_found_as_timm_renames_them(name: str, stored: str, expected: str | None) -> None:
    assert _name_in({stored, "head.weight"}, name) == expected


def test_the_weights_of_the_package_load() -> None:
    backbone = Backbone(recipe("shapeworld").model)
    assert all(bool(value.isfinite().all()) for value in backbone.state_dict().values())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_file_of_another_backbone_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"weights\.safetensors lacks \d+ tensors of the backbone"):
        Backbone(replace(TINY, backbone=name, backbone_weights=str(path)))


def test_a_file_with_tensors_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    whole_model("swin_test", path)
    stored = load_file(path)
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    save_file(stored | {table: torch.zeros(23 * 23, 1)}, path)
    expected = (
        r"lacks 0 tensors of the backbone and has 1 of another shape \(first: 'layers_0\.blocks\.0\.attn"
    )
    with pytest.raises(UserError, match=expected):
        Backbone(replace(TINY, backbone="swin_test", backbone_weights=str(path)))


@pytest.mark.parametrize("weights", ["nowhere.safetensors", "weights.pth"])
def test_a_missing_file_is_refused(weights: str) -> None:
    with pytest.raises(UserError, match=f"option model.backbone_weights: found '{weights}'"):
        Backbone(replace(TINY, backbone_weights=weights))


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"a\.safetensors holds no readable safetensors"):
        load_backbone(nn.Linear(1, 1), tmp_path / "a.safetensors")
