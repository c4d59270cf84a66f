"""Parameter groups, learning rates (docs/method/cckt_det.md, eq. 23) and the moving average of the weights.

The learning rate is a function of the step only, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cckt.detector.config.config import TrainConfig
from cckt.detector.students.contract import Student


def parameter_groups(student: Student, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the optimiser's groups: backbone and sampling layers have their own learning rates (eq. 23).

    Every trainable parameter is in exactly one group. All have weight decay, as in DETR, norms and biases
    too. `set_rate` multiplies the learning rate of the step by the group's `lr_factor`.
    """
    factors = {"backbone": config.backbone_lr_factor, "sampling": config.sampling_lr_factor, "rest": 1.0}
    return [
        {"params": parameters, "name": name, "lr_factor": factors[name], "lr": config.lr * factors[name]}
        for name, parameters in student.parameter_groups().items()
        if parameters
    ]


def build_optimizer(student: Student, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """Return AdamW or SGD (`train.optimizer`) over `parameter_groups`, fused if the device supports it."""
    fused = device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameter_groups(student, config),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.AdamW(
        parameter_groups(student, config), lr=config.lr, weight_decay=config.weight_decay, fused=fused
    )


def rate_at(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the factor on the learning rates in this step (counted from 0), in [0, 1] (eq. 23)."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.warmup_ratio:
        done = min(1.0, step / max(1, config.warmup_steps))
        warmup = 1.0 - (1.0 - done) * (1.0 - config.warmup_ratio)
    if config.schedule == "cosine":
        total = config.epochs * steps_per_epoch
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    epoch, second = step // steps_per_epoch, config.lr_second_drop_epoch
    drops = int(epoch >= config.lr_drop_epoch) + int(0 < second <= epoch)
    return warmup * config.lr_drop_factor**drops


def set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, factor: float) -> float:
    """Set the learning rate of every group; return that of the group with factor 1."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["lr_factor"] * factor
    return config.lr * factor


def clip_gradients(optimizer: torch.optim.Optimizer, largest: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `largest` (0: no scaling).

    Returns the norm before scaling, a scalar on the device; if it is non-finite the caller must not step.
    """
    gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if largest > 0:
        nn.utils.clip_grads_with_norm_(list(_parameters(optimizer)), largest, norm)
    return norm


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


class MovingAverage:
    """Exponential moving average of a model's weights: average = decay * average + (1 - decay) * weight.

    The decay rises as (1 + n) / (10 + n) over the first updates, so that the random initial weights fade.
    Buffers and integer tensors are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the weights of this step."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        learned = {name for name, _ in model.named_parameters()}
        averages, weights = [], []
        for name, value in model.state_dict().items():
            if name in learned:
                averages.append(self.weights[name])
                weights.append(value)
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(averages, weights, share)

    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Restore the average of a checkpoint."""
        self.updates = updates
        for name, value in weights.items():
            self.weights[name].copy_(value)
