"""What is read off a state: unit embeddings and class logits."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.students.precision import single

PRIOR_LOGIT = -math.log(99.0)
"""Class probability 0.01 at the start, so that the many background queries do not drown the first steps."""


class UnitLinear(nn.Module):
    """A linear layer whose output is a unit vector, in float32 whatever the autocast."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(single(self.linear(x)), dim=-1, eps=1e-6)


class TextHead(nn.Module):
    """Class logits as scale * cosine + bias against the vocabulary's text."""

    def __init__(self, hidden: int, width: int, own: bool) -> None:
        super().__init__()
        self.embed = UnitLinear(hidden, width) if own else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(PRIOR_LOGIT))

    def forward(self, x: Tensor, region: Tensor, text: Tensor) -> Tensor:
        """x: (B, N, d), region: (B, N, D) unit, text: (C, D) unit. Returns (B, N, C)."""
        embedding = self.embed(x) if self.embed is not None else region
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = embedding @ text.t() * self.log_scale.exp() + self.bias
        return out


def closed_head(hidden: int, n_classes: int) -> nn.Linear:
    """Class logits of a closed set."""
    head = nn.Linear(hidden, n_classes)
    nn.init.constant_(head.bias, PRIOR_LOGIT)
    return head
