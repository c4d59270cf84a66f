"""Parameter groups, learning rates and the moving average of the weights.

The learning rate is a function of the step and nothing else: a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cckt.detector.config.config import TrainConfig

SAMPLING_NAMES = ("sampling_offsets", "reference_points")
"""Parts of the names of parameters that decide where attention looks."""


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW's groups (METHOD.md section 5, Schedule): the backbone and the sampling layers learn slower.

    Every trainable parameter is in exactly one group. As in DETR all of them decay, norms and biases too.
    `lr_factor` stays in the group and times the rate of the step (see `set_rate`).
    """
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "sampling": [], "rest": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_backbone = name.startswith("backbone.")
            kind = "backbone" if in_backbone else "sampling" if _samples(name) else "rest"
            groups[kind].append(parameter)
    assert groups["sampling"], "no sampling layers were found by name: were they renamed?"
    factors = {"backbone": config.backbone_lr_factor, "sampling": config.sampling_lr_factor, "rest": 1.0}
    return [
        {"params": parameters, "name": name, "lr_factor": factors[name], "lr": config.lr * factors[name]}
        for name, parameters in groups.items()
        if parameters
    ]


def _samples(name: str) -> bool:
    return any(part in name for part in SAMPLING_NAMES)


def build_optimizer(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, as one fused operation where the device has it."""
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        parameter_groups(model, config), lr=config.lr, weight_decay=config.weight_decay, fused=fused
    )


def rate_at(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """What the learning rates are multiplied by in this step (counted from 0), in [0, 1]."""
    climb = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "cosine":
        total = config.epochs * steps_per_epoch
        return climb * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    dropped = step // steps_per_epoch >= config.lr_drop_epoch
    return climb * (config.lr_drop_factor if dropped else 1.0)


def set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, factor: float) -> float:
    """Give every group its learning rate; returns that of the group without a factor of its own."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["lr_factor"] * factor
    return config.lr * factor


def clip_gradients(optimizer: torch.optim.Optimizer, largest: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `largest` (0: leave them).

    Returns the norm before, a scalar on the device; it is no number where a gradient is none, and then the
    caller must not step.
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

    The decay climbs as (1 + n) / (10 + n) over the first updates, so that the random start is forgotten.
    Buffers and integer tensors are copied as they are.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of this step."""
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
        """Go on from a checkpoint."""
        self.updates = updates
        for name, value in weights.items():
            self.weights[name].copy_(value)
