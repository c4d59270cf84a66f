"""Heads on the states of regions: unit embeddings and class logits (docs/method/cckt_det.md, eq. 11)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.students.precision import single

PRIOR_LOGIT = -math.log(99.0)
"""Initial bias of class logits: probability 0.01, so that background does not dominate the first losses."""


class UnitLinear(nn.Module):
    """A linear layer with a normalised output, float32 under autocast too."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to unit vectors (..., D)."""
        return F.normalize(self.raw(x), dim=-1, eps=1e-6)

    def raw(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., D) float32 vectors before they get unit length."""
        return single(self.linear(x))


class TextHead(nn.Module):
    """Class logits: scale * cosine + bias, between an embedding of the region and the text of each concept.

    own: project the state to a separate embedding; otherwise use the region embedding.
    """

    def __init__(self, hidden: int, width: int, own: bool) -> None:
        super().__init__()
        self.embed = UnitLinear(hidden, width) if own else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(PRIOR_LOGIT))

    def forward(self, x: Tensor, region: Tensor, text: Tensor) -> Tensor:
        """Return (B, N, C) logits.

        x: (B, N, d) states; region: (B, N, D) unit region embeddings; text: (C, D) unit.
        """
        embedding = self.embed(x) if self.embed is not None else region
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = embedding @ text.t() * self.log_scale.exp() + self.bias
        return out
