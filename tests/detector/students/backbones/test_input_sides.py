"""Sides of images that timm models accept."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cckt.detector.students.backbones import input_sides as module
from cckt.detector.students.backbones.input_sides import InputSides, input_sides
from tests.detector.students.backbones.tiny_backbones import BACKBONES

EXPECTED = {
    "test_resnet": InputSides(),
    "swin_test": InputSides(multiple=4),
    "swinv2_test": InputSides(multiple=4),
    "swinv2_cr_test": InputSides(multiple=4),
    "test_maxvit": InputSides(multiple=160),
    "test_convnext": InputSides(multiple=32),
    "pvt_v2_test": InputSides(least=32),
}


def maps(name: str) -> Any:
    fixed = {"strict_img_size": False} if name.startswith("swin") else {}
    return timm.create_model(name, features_only=True, pretrained=False, **fixed)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_least_padding_is_found_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN", {})
    assert input_sides(name, maps(name)) == EXPECTED[name]
    assert input_sides(name, None) == EXPECTED[name], "the second call uses the cache"


def test_sides_are_rounded_up() -> None:
    assert [InputSides().padded(side) for side in (1, 7, 64)] == [1, 7, 64]
    assert [InputSides(4).padded(side) for side in (1, 4, 61)] == [4, 4, 64]
    assert [InputSides(1, 32).padded(side) for side in (1, 32, 33)] == [32, 32, 33]
    assert [InputSides(8, 32).padded(side) for side in (1, 33)] == [32, 40]


class Net(nn.Module):
    """Stand-in for a timm model of one map of stride 2 with `size(side)` cells."""

    class feature_info:
        @staticmethod
        def reduction() -> list[int]:
            return [2]

    default_cfg = {"input_size": (3, 224, 224)}  # noqa: RUF012

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = (self.size(side) for side in images.shape[-2:])
        return [torch.empty((1, 1, height, width), device="meta")]


def test_a_model_whose_maps_never_fit_is_used_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN", {})
    assert input_sides("narrow", Net(lambda side: max(1, side // 2 - 1))) == InputSides()
    assert module._KNOWN == {}


def test_a_model_that_cannot_run_without_data_is_used_without_padding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(side: int) -> int:
        raise NotImplementedError

    monkeypatch.setattr(module, "_KNOWN", {})
    assert input_sides("real", Net(fails)) == InputSides()
