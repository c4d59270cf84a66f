"""What terms remember from step to step: queues and prototypes, as registered buffers.

Checkpoints save them, and a resumed run has the same bits. Ranks hold equal values as long as all of them
push the same rows: gather rows over ranks before. Rows that are not finite never enter, because a step with
a non-finite loss is skipped and the next one must not see them.

Shape legend: L layers, J rows (masked), Q entries of a queue, C base concepts, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """The newest `capacity` rows of each layer, first in, first out.

    capacity: Q; 0 remembers nothing.
    """

    rows: Tensor
    """(L, Q, D) float32; zeros where there is none yet."""
    filled: Tensor
    """(L,) int64, number of rows."""
    oldest: Tensor
    """(L,) int64, the place that the next row takes."""

    def __init__(self, layers: int, capacity: int, width: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("rows", torch.zeros(layers, capacity, width))
        self.register_buffer("filled", torch.zeros(layers, dtype=torch.int64))
        self.register_buffer("oldest", torch.zeros(layers, dtype=torch.int64))

    @property
    def valid(self) -> Tensor:
        """(L, Q) bool: the place holds a row."""
        return torch.arange(self.capacity, device=self.rows.device) < self.filled[:, None]

    @torch.no_grad()
    def push(self, rows: Tensor, kept: Tensor) -> None:
        """Add the kept rows in their order; of more than Q rows, the last Q stay.

        rows: (L, J, D); kept: (L, J) bool, rows to add; the caller leaves out rows that are not finite.
        """
        if not self.capacity or not rows.shape[1]:
            return
        order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
        ordered = rows.detach().gather(1, order[..., None].expand_as(rows))
        count = kept.sum(1)
        place = torch.arange(self.capacity, device=rows.device)
        first = (place - self.oldest[:, None]) % self.capacity  # the first new row that takes the place
        rounds = ((count[:, None] - 1 - first) // self.capacity).clamp(min=0)
        newest = (first + rounds * self.capacity).clamp(max=rows.shape[1] - 1)
        new = ordered.gather(1, newest[..., None].expand(-1, -1, rows.shape[2]))
        taken = (first < count[:, None])[..., None]
        self.rows.copy_(torch.where(taken, new.to(self.rows.dtype), self.rows))
        self.filled.copy_((self.filled + count).clamp(max=self.capacity))
        self.oldest.copy_((self.oldest + count) % self.capacity)


class Prototypes(nn.Module):
    """Moving averages of a class embedding of each layer and base concept (eqs. 32 and 33).

    text: (C, D) unit, their values at the start. per_class: count the updates of each class; False: one count
    for all classes of a layer, as in the authors' code.
    """

    means: Tensor
    """(L, C, D) float32, not normalised."""
    updates: Tensor
    """(L, C) int64."""

    def __init__(self, layers: int, text: Tensor, decay: float, ramp: float, per_class: bool) -> None:
        super().__init__()
        self.decay, self.ramp, self.per_class = decay, ramp, per_class
        self.register_buffer("means", text.detach().float().expand(layers, -1, -1).clone())
        self.register_buffer("updates", torch.zeros(layers, len(text), dtype=torch.int64))

    @torch.no_grad()
    def update(self, values: Tensor, present: Tensor) -> None:
        """Move the prototypes of the present classes towards `values`.

        values: (L, C, D), finite where `present`; present: (L, C) bool.
        """
        counted = present if self.per_class else present.any(1, keepdim=True)
        self.updates.add_(counted.to(self.updates.dtype))
        decay = self.decay * (1 - torch.exp(-self.updates.to(self.means.dtype) / self.ramp))[..., None]
        moved = decay * self.means + (1 - decay) * values.detach().to(self.means.dtype)
        self.means.copy_(torch.where(present[..., None], moved, self.means))


def finite_rows(rows: Tensor) -> Tensor:
    """Return (..., ) bool: every number of the row is finite. rows: (..., D)."""
    return rows.isfinite().all(-1)
