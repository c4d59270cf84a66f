"""Cheap dropout masks: rate, scale, gradients, seeds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.students.deformable_detr.dropout import dropout, kept, relu_dropout

FUNCTIONS = {"dropout": dropout, "relu": relu_dropout}


def plain(name: str, x: Tensor) -> Tensor:
    return F.relu(x) if name == "relu" else x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_evaluation_and_at_rate_0_nothing_is_dropped(name: str) -> None:
    x = torch.randn(3, 5)
    for rate, training in ((0.3, False), (0.0, True)):
        assert torch.equal(FUNCTIONS[name](x, rate, training), plain(name, x))
    assert FUNCTIONS[name](torch.zeros(0, 4), 0.5, True).shape == (0, 4)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_equal_those_of_the_mask(name: str, rate: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 33, requires_grad=True)
    torch.manual_seed(7)
    mask, scale = kept(x.shape, rate)
    assert scale == pytest.approx(1 / (1 - rate), rel=2e-4)
    torch.manual_seed(7)
    found = FUNCTIONS[name](x, rate, True)
    expected = plain(name, x) * mask * scale
    torch.testing.assert_close(found, expected)
    weight = torch.randn(40, 33)
    (own,) = torch.autograd.grad((found * weight).sum(), x)
    (other,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(own, other)


@pytest.mark.parametrize("rate", [0.1, 0.25])
def test_masks_have_the_rate_and_independent_elements(rate: float) -> None:
    torch.manual_seed(0)
    mask = kept(torch.Size([1 << 20]), rate)[0].float()
    spread = (rate * (1 - rate) / len(mask)) ** 0.5
    assert abs(float(1 - mask.mean()) - rate) < 5 * spread
    centred = mask - mask.mean()
    for lag in (1, 2, 3, 4, 8, 64):  # within a word and between words
        correlation = float((centred[:-lag] * centred[lag:]).mean()) / (rate * (1 - rate))
        assert abs(correlation) < 5 / len(mask) ** 0.5
    for place in range(4):  # each quarter of a word
        assert abs(float(1 - mask[place::4].mean()) - rate) < 10 * spread


def test_a_seed_gives_its_mask_and_every_call_another_one() -> None:
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5, True), dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, True), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_stays_half_precision(name: str) -> None:
    x = torch.randn(64, 8).bfloat16().requires_grad_()
    found = FUNCTIONS[name](x, 0.1, True)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_recomputed_layers_repeat_their_masks() -> None:
    x = torch.randn(50, 20, requires_grad=True)
    torch.manual_seed(1)
    (dropout(x.exp(), 0.4, True) ** 2).sum().backward()
    expected, x.grad = x.grad, None
    torch.manual_seed(1)
    out = torch.utils.checkpoint.checkpoint(
        lambda y: dropout(y.exp(), 0.4, True) ** 2, x, use_reentrant=False
    )
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected, atol=0, rtol=0)
