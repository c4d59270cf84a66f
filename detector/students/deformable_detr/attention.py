"""Multi-scale deformable attention (Deformable DETR, Zhu et al., ICLR 2021, eq. 3 of that paper).

Shape legend: B images, Q queries, d hidden size, L levels, S = sum of h*w over levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cckt.detector.students.deformable_detr.sampling import Kernel, sample, sides_of
from cckt.detector.students.deformable_detr.shapes import Shapes
from cckt.detector.students.precision import single


class DeformableAttention(nn.Module):
    """Weighted sum of `points` samples per head and level, around the reference of each query."""

    def __init__(self, hidden: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.kernel: Kernel = "auto"
        assert hidden % heads == 0, f"heads {heads} must divide hidden {hidden}"
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(hidden, heads * levels * points * 2)
        self.attention_weights = nn.Linear(hidden, heads * levels * points)
        self.value_proj = nn.Linear(hidden, hidden)
        self.output_proj = nn.Linear(hidden, hidden)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise: equal weights; each head samples in its direction, its point k at k cells.

        The larger coordinate of that offset is k.
        """
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angles.cos(), angles.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        bias = (direction[:, None, None] * steps).expand(self.heads, self.levels, self.points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, references: Tensor, memory: Tensor, shapes: Shapes, keep: Tensor | None
    ) -> Tensor:
        """Return (B, Q, d), the attended values.

        query: (B, Q, d). references: (B or 1, Q, L, 2) points or (B, Q, L, 4) cxcywh boxes, normalised to the
        padded level. memory: (B, S, d). keep: (B, S, 1) bool, False in the padding; None without padding.
        """
        batch, queries = query.shape[:2]
        value = self.value_proj(memory)
        if keep is not None:
            value = value * keep.to(value.dtype)
        # Float32 under autocast too: bfloat16 cannot represent half a cell of a wide level.
        offsets = single(self.sampling_offsets(query))
        weights = single(self.attention_weights(query))
        # Not (..., L, points, 2): the loops of a CPU run along the last dimension, which should be long.
        samples = self.levels * self.points
        offsets = offsets.view(batch, queries, self.heads, samples * 2)
        weights = weights.view(batch, queries, self.heads, samples).softmax(-1)
        if references.shape[-1] == 2:
            centre, scale = references, sides_of(shapes, offsets).reciprocal()
        else:
            centre, size = references.chunk(2, -1)
            scale = size * (0.5 / self.points)
        locations = self._per_sample(centre).unsqueeze(2) + offsets * self._per_sample(scale).unsqueeze(-2)
        split = (batch, queries, self.heads, self.levels, self.points)
        weights, locations = weights.view(split), locations.view(*split, 2)
        value = value.view(batch, -1, self.heads, value.shape[-1] // self.heads)
        out: Tensor = self.output_proj(sample(value, shapes, locations, weights, self.kernel))
        return out

    def _per_sample(self, pairs: Tensor) -> Tensor:
        """Repeat the x and y of a level for each of its points: (..., L, 2) to (..., L * points * 2)."""
        return pairs.unsqueeze(-2).expand(*pairs.shape[:-1], self.points, 2).flatten(-3)


def choose_kernel(module: nn.Module, kernel: Kernel) -> None:
    """Set the sampling implementation of every `DeformableAttention` in a module."""
    for one in module.modules():
        if isinstance(one, DeformableAttention):
            one.kernel = kernel
