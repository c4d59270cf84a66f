"""Heads of HD-OVD against plain computations from the specification."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from cckt.detector.students.hd_heads import (
    ImageHead,
    ObjectnessHead,
    RelationHead,
    TextProjector,
    sampling_weights,
)
from tests.detector.students.samples import WIDTH


def test_text_projector_adds_a_network_to_the_region() -> None:
    """Eq. 22."""
    torch.manual_seed(0)
    head, e = TextProjector(WIDTH), torch.randn(2, 3, WIDTH)
    first, second, third = head.layers
    inner = F.gelu(F.linear(e, first.weight, first.bias))
    inner = F.gelu(F.linear(inner, second.weight, second.bias))
    g = e + F.linear(inner, third.weight, third.bias)
    torch.testing.assert_close(head(e), g / g.norm(dim=-1, keepdim=True))
    assert [tuple(one.weight.shape) for one in head.layers] == [
        (2 * WIDTH, WIDTH),
        (2 * WIDTH, 2 * WIDTH),
        (WIDTH, 2 * WIDTH),
    ]
    assert head.background.shape == (WIDTH,)
    assert head(e.bfloat16().float()[:0]).shape == (0, 3, WIDTH)


def test_relation_head_starts_as_the_identity_and_transfers_weights_without_gradient() -> None:
    """Eqs. 29 and 30."""
    torch.manual_seed(1)
    projector, head, e = TextProjector(WIDTH), RelationHead(WIDTH), torch.randn(4, WIDTH)
    assert torch.equal(head(e, projector.last_weight), e)
    with torch.no_grad():
        head.fc2.weight.normal_()
        head.fc2.bias.normal_()
    a = projector.last_weight.detach()
    rows = [head.fc2(F.relu(head.fc1(a[i]))) for i in range(WIDTH)]
    matrix = torch.stack(rows)
    expected = torch.stack([one + matrix @ one for one in e])
    found = head(e, projector.last_weight)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert projector.last_weight.grad is None
    assert head.fc1.weight.grad is not None


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 3), (13, 4)])
def test_sampling_weights_equal_roi_align(height: int, width: int) -> None:
    """Eq. 38: 7 x 7 cells, sampling ratio 2, over the unpadded area."""
    torch.manual_seed(2)
    x = torch.randn(3, 2, height, width)
    shares = torch.tensor([[1.0, 1.0], [0.6, 0.35], [0.9, 1.0]])
    sides = (shares * torch.tensor([height, width]) * 32).flip(1)
    rois = torch.cat([torch.arange(3.0)[:, None], torch.zeros(3, 2), sides], 1)
    expected = roi_align(x, rois, 7, 1 / 32, 2, True).mean((2, 3))
    rows, columns = sampling_weights(shares[:, 0], height), sampling_weights(shares[:, 1], width)
    torch.testing.assert_close(torch.einsum("bchw,bh,bw->bc", x, rows, columns), expected)


def test_image_head_adds_the_levels_and_ignores_the_padding() -> None:
    """Eqs. 37 and 38; an image in a padded batch gets nearly what it gets alone."""
    torch.manual_seed(3)
    head = ImageHead(8, WIDTH)
    levels = [torch.randn(1, 8, 16, 12), torch.randn(1, 8, 8, 6), torch.randn(1, 8, 4, 3)]
    fused = levels[2] + sum(F.interpolate(one, (4, 3), mode="bilinear") for one in levels[:2])
    pooled = roi_align(fused, torch.tensor([[0, 0, 0, 96.0, 128.0]]), 7, 1 / 32, 2, True).mean((2, 3))
    u = head.linear(head.norm(pooled))
    alone = head(levels, None)
    torch.testing.assert_close(alone, u / u.norm())
    padded = [F.pad(one, (0, one.shape[3], 0, one.shape[2])) for one in levels]
    padding = torch.ones(1, 256, 192, dtype=torch.bool)
    padding[:, :128, :96] = False
    assert float((head(padded, padding) * alone).sum().detach()) > 0.9
    other = [one.clone() for one in padded]
    for one in other:
        one[..., one.shape[3] * 3 // 4 :] = 9 * torch.randn(1, 8, 1, 1)
    torch.testing.assert_close(head(other, padding), head(padded, padding))
    assert not torch.allclose(head(other, None), head(padded, None), atol=0.1)


def test_objectness_starts_at_a_hundredth() -> None:
    torch.manual_seed(4)
    head, x = ObjectnessHead(32), torch.randn(5, 6, 32)
    assert head(x).shape == (5, 6)
    torch.testing.assert_close(head(x), head.fc2(F.relu(head.fc1(x)))[..., 0])
    assert float(head.fc2.bias.detach()) == pytest.approx(-math.log(99))
    assert head.fc1.out_features == 16


def test_heads_give_float32_under_autocast() -> None:
    projector, e = TextProjector(WIDTH), torch.randn(2, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            projector(e),
            RelationHead(WIDTH)(e, projector.last_weight),
            ImageHead(8, WIDTH)([torch.randn(1, 8, 4, 4)], None),
            ObjectnessHead(32)(torch.randn(2, 32)),
        ]
    assert [one.dtype for one in found] == [torch.float32] * 4
