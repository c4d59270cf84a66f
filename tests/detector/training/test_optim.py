from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cckt.detector.config.config import TrainConfig
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.training.optim import (
    MovingAverage,
    build_optimizer,
    clip_gradients,
    parameter_groups,
    rate_at,
    set_rate,
)
from tests.detector.tiny import tiny_config

CPU = torch.device("cpu")


def tiny_model():
    return DeformableDETR(tiny_config(), 16)


def test_every_trainable_parameter_is_in_one_group():
    model = tiny_model()
    next(model.backbone.parameters()).requires_grad_(False)
    groups = parameter_groups(model, TrainConfig(lr=1.0))
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {group["name"]: group["lr"] for group in groups} == {"backbone": 0.1, "sampling": 0.1, "rest": 1.0}
    named = {id(p): name for name, p in model.named_parameters()}
    sampling = {named[id(p)] for p in groups[1]["params"]}
    assert "transformer.reference_points.weight" in sampling
    assert all("sampling_offsets" in name or "reference_points" in name for name in sampling)


def test_the_optimiser_is_fused_if_the_device_supports_it():
    assert build_optimizer(tiny_model(), TrainConfig(), CPU).param_groups[0]["fused"]
    assert not build_optimizer(tiny_model(), TrainConfig(), torch.device("meta")).param_groups[0]["fused"]


def test_the_step_schedule_warms_up_and_drops_at_its_epoch():
    config = TrainConfig(warmup_steps=3, lr_drop_epoch=2, lr_drop_factor=0.1, epochs=4)
    rates = [rate_at(step, 5, config) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[9:11] == [1.0, 0.1]
    assert rates[-1] == 0.1


def test_the_cosine_schedule_ends_at_zero():
    config = TrainConfig(schedule="cosine", epochs=4)
    rates = [rate_at(step, 5, config) for step in range(21)]
    assert rates[0] == 1.0
    assert rates[10] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(0.0)
    assert rates == sorted(rates, reverse=True)
    assert rates[7] == pytest.approx((1 + math.cos(math.pi * 7 / 20)) / 2)


def test_set_rate_keeps_the_factors_of_the_groups():
    config = TrainConfig(lr=2.0)
    optimizer = build_optimizer(tiny_model(), config, CPU)
    assert set_rate(optimizer, config, 0.5) == 1.0
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.1, 1.0])
    assert all(group["weight_decay"] == 1e-4 for group in optimizer.param_groups)


def test_clipping_returns_the_previous_norm_and_skips_missing_gradients():
    weight, other, unused = (
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.zeros(1)),
    )
    optimizer = torch.optim.SGD([weight, other, unused], lr=1)
    weight.grad, other.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(optimizer, 0) == 5
    assert weight.grad == 3
    assert clip_gradients(optimizer, 0.1) == 5
    assert torch.stack([weight.grad, other.grad]).norm().item() == pytest.approx(0.1, rel=1e-4)
    assert unused.grad is None
    weight.grad = torch.tensor([float("nan")])
    assert not clip_gradients(optimizer, 0.1).isfinite()


def test_the_moving_average_equals_a_plain_computation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = MovingAverage(model, 0.5)
    expected = model[0].weight.detach().clone()
    for update in range(1, 5):
        with torch.no_grad():
            model[0].weight.normal_()
            model[1].running_mean.add_(1)
        average.update(model)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.weights["0.weight"], expected)
    assert average.weights["1.running_mean"].tolist() == [4, 4]


def test_sgd_has_momentum_and_the_same_groups():
    config = TrainConfig(optimizer="sgd", lr=0.02, momentum=0.8)
    optimizer = build_optimizer(tiny_model(), config, CPU)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["name"] for group in optimizer.param_groups] == ["backbone", "sampling", "rest"]
    assert all(group["momentum"] == 0.8 for group in optimizer.param_groups)
    assert all(group["weight_decay"] == 1e-4 for group in optimizer.param_groups)


def test_a_second_drop_multiplies_the_factor():
    config = TrainConfig(epochs=12, lr_drop_epoch=8, lr_second_drop_epoch=11)
    rates = [rate_at(epoch, 1, config) for epoch in range(12)]
    assert rates == pytest.approx([1.0] * 8 + [0.1] * 3 + [0.01])


def test_the_warm_up_starts_at_its_ratio():
    config = TrainConfig(warmup_steps=4, warmup_ratio=0.2)
    assert [rate_at(step, 100, config) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
