"""Backbones with folded norms against the same backbones as they were trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cckt.cache_builder.base.cpu.fold_norms import FusedConv
from cckt.detector.config.config import ModelConfig
from cckt.detector.students.backbones.backbone import Backbone
from cckt.detector.students.backbones.cpu_backbone import NORMS, prepare_for_cpu


def trained(name: str, norm: str) -> nn.Module:
    """A module that holds a backbone whose norms have statistics, in eval mode."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=name, backbone_weights="none", norm=norm, strides=(8, 16))  # type: ignore[arg-type]
    holder = nn.ModuleDict({"backbone": Backbone(config, pretrained=False)})
    for module in holder.modules():
        for statistic in ("running_mean", "bias"):
            if isinstance(getattr(module, statistic, None), torch.Tensor) and hasattr(module, "running_var"):
                getattr(module, statistic).data.normal_(std=0.3)
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
    return holder.eval()


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("name", ["resnet10t", "test_resnet", "efficientnet_lite0", "tf_efficientnet_lite0"])
def test_a_folded_backbone_is_the_same_function(name: str, norm: str) -> None:
    before = trained(name, norm)
    after = copy.deepcopy(before)
    assert prepare_for_cpu(after, "fp32") == 1
    kept = any(isinstance(one, NORMS) for one in after.modules())
    assert kept == name.startswith("tf_"), 'expected norms only after convolutions with "same" padding'
    assert any(isinstance(one, FusedConv) for one in after.modules())
    with torch.inference_mode():
        for size in ((2, 3, 64, 64), (1, 3, 75, 43)):
            images = torch.randn(size)
            for found, expected in zip(after["backbone"](images), before["backbone"](images), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_backbone_in_bf16_is_as_near_to_float32_as_autocast() -> None:
    exact = trained("resnet10t", "frozen")
    folded = copy.deepcopy(exact)
    assert prepare_for_cpu(folded, "bf16") == 1
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = exact["backbone"](images)
        with torch.autocast("cpu", torch.bfloat16):
            pairs = zip(folded["backbone"](images), exact["backbone"](images), expected, strict=True)
            for found, autocast, true in pairs:
                assert found.dtype == torch.bfloat16
                assert (found - true).norm() < 1.2 * (autocast - true).norm() < 0.05 * true.norm()


def test_other_precisions_are_left_to_autocast() -> None:
    assert prepare_for_cpu(trained("resnet10t", "frozen"), "fp16") == 0


def test_a_backbone_without_such_norms_is_not_changed() -> None:
    model = trained("resnet10t", "group")
    names = [name for name, _ in model.named_modules()]
    assert prepare_for_cpu(model, "fp32") == 0
    assert [name for name, _ in model.named_modules()] == names
