"""Frozen norms folded into the preceding convolutions."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from cckt.detector.students.backbones.backbone import CONV_THEN_NORM, FROZEN_NORMS
from cckt.detector.students.backbones.frozen_norm import (
    Conv2dWithFrozenNorm,
    FoldedFrozenNorm,
    fold_frozen_norms,
)


def net(name: str) -> nn.Module:
    """A small backbone with frozen norms and random statistics."""
    torch.manual_seed(0)
    made = freeze_batch_norm_2d(timm.create_model(name, features_only=True, pretrained=False)).double()
    for key, value in made.state_dict().items():
        if "running" in key or key.endswith(("bias", "bn1.weight", "bn2.weight")):
            value.copy_(torch.rand_like(value) + 0.5)
    return made


def outputs(model: nn.Module) -> list[Tensor]:
    """Return the feature maps and the gradients of all weights."""
    images = torch.randn(2, 3, 64, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    maps = model(images)
    sum(one.square().mean() for one in maps).backward()
    return [*maps, *(one.grad.clone() for one in model.parameters())]


@pytest.mark.parametrize(
    ("name", "kept_norms"), [("test_resnet", 1), ("resnet18", 0), ("tf_efficientnet_lite0", 5)]
)
def test_folding_keeps_outputs_gradients_and_names(name: str, kept_norms: int) -> None:
    model = net(name)
    keys, before = list(model.state_dict()), outputs(model)
    norms = sum(isinstance(one, FROZEN_NORMS) for one in model.modules())
    folded = fold_frozen_norms(model, FROZEN_NORMS, CONV_THEN_NORM)
    left = sum(isinstance(one, FROZEN_NORMS) for one in model.modules())
    assert folded > 5
    assert folded + left == norms
    assert left == kept_norms, (
        "norms that stay: after the first convolution of test_resnet, a Sequential, and after convolutions "
        'with "same" padding'
    )
    assert list(model.state_dict()) == keys
    for one, other in zip(outputs(model), before, strict=True):
        torch.testing.assert_close(one, other)


def test_modules_without_frozen_norms_are_unchanged() -> None:
    assert fold_frozen_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), FROZEN_NORMS, CONV_THEN_NORM) == 0
    assert fold_frozen_norms(nn.Identity(), FROZEN_NORMS, CONV_THEN_NORM) == 0


def test_a_norm_in_an_unknown_module_is_not_folded() -> None:
    class Other(nn.Module):
        """A module that may run its norm first."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(4, 4, 1), FROZEN_NORMS[0](4)

    assert fold_frozen_norms(Other(), FROZEN_NORMS, CONV_THEN_NORM) == 0


def test_folded_modules_load_and_copy() -> None:
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), FROZEN_NORMS[1](4), nn.Conv2d(4, 2, 1))
    other = copy.deepcopy(plain)
    assert fold_frozen_norms(plain, FROZEN_NORMS, CONV_THEN_NORM) == 1
    assert isinstance(plain[0], Conv2dWithFrozenNorm)
    assert isinstance(plain[1], FoldedFrozenNorm)
    state = {key: torch.rand_like(value) for key, value in other.state_dict().items()}
    twin = copy.deepcopy(plain)
    other.load_state_dict(state)
    twin.load_state_dict(state)
    images = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(twin(images), other(images))
    assert not torch.equal(twin(images), plain(images)), "a copy has separate statistics"


def test_maps_stay_in_half_precision_under_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), FROZEN_NORMS[1](4), nn.Conv2d(4, 2, 1))
    images = torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert model[1](model[0](images)).dtype == torch.float32
        fold_frozen_norms(model, FROZEN_NORMS, CONV_THEN_NORM)
        assert model[1](model[0](images)).dtype == torch.bfloat16
