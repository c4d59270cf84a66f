"""Layers with the padding SAME in a form that can be traced, and detectors that have them."""

from __future__ import annotations

import importlib.util
import time

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import nn

from cckt.detector.config.config import changed
from cckt.detector.export.graph_model import traceable
from cckt.detector.export.onnx_graph import run_onnx
from cckt.detector.students.backbones.same_padding import StaticPadding, has_same_padding
from tests.detector.evaluation.evaluation_world import make_run, small_config
from tests.detector.export.test_export import MISSING, by_torch, graph

LAYERS = [
    *(Conv2dSame(4, 6, kernel, stride) for kernel in (1, 2, 3, 5) for stride in (1, 2, 4)),
    Conv2dSame(4, 4, 3, 2, groups=4),
    Conv2dSame(4, 6, 3, 1, dilation=2),
    Conv2dSame(4, 6, (5, 3), (2, 1)),
    StdConv2dSame(4, 6, 3, stride=2, padding="same"),
    ScaledStdConv2dSame(4, 6, 3, stride=2, padding="same"),
    MaxPool2dSame(3, 2),
    MaxPool2dSame(2, 2),
    AvgPool2dSame(3, 2),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_static_padding_is_same_padding_for_multiples_of_the_stride(layer: nn.Module) -> None:
    assert has_same_padding(layer)
    whole = nn.Sequential(layer)
    other = traceable(whole, static_padding=True)
    assert isinstance(other[0], StaticPadding)
    assert not isinstance(whole[0], StaticPadding), "the model itself is unchanged"
    for height, width in ((4, 4), (8, 12), (20, 4)):
        x = torch.randn(2, 4, height, width) - 3  # a maximum must not see zeros of the padding
        torch.testing.assert_close(other(x), whole(x))


def test_other_layers_are_left_alone() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2))
    assert not has_same_padding(plain)
    kept = traceable(plain, static_padding=True)
    assert [type(part) for part in kept] == [nn.Conv2d, nn.MaxPool2d]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'cckt[export]')")
def test_a_network_with_same_padding_exports_for_any_size_in_multiples(tmp_path) -> None:
    torch.manual_seed(2)
    name = "tf_mobilenetv3_small_minimal_100"
    config = changed(small_config(), "model", backbone=name, strides=(16, 32), backbone_weights="none")
    run = make_run(tmp_path / "run", config)
    began = time.monotonic()
    report = graph(run, tmp_path / "d.onnx", present=["kite"], minutes=10)
    assert time.monotonic() - began < 600
    assert (report.multiple, report.least % 32) == (32, 0)
    generator = torch.Generator().manual_seed(1)
    for size in ((64, 64), (96, 160), (128, 64)):
        photos = torch.rand((2, 3, *size), generator=generator)
        for mine, expected in zip(run_onnx(report.path, photos), by_torch(run, photos, [1]), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-3, rtol=0)
    assert importlib.util.find_spec("onnx")
