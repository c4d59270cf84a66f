"""Losses of similarities that distillation terms share (docs/method/hd_ovd.md, eqs. 2 to 4).

All of them take rows of several layers at once, and a mask in place of rows that are cut out: shapes then
depend on no result, so that nothing waits for a GPU and all ranks have one shape. A mean over no rows is 0,
connected to the graph.

Shape legend: L layers, J rows (masked), Q entries of a queue, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cckt.detector.losses.memory import Queue
from cckt.detector.students.contract import MASKED


def mean_of_rows(values: Tensor, kept: Tensor, least: int = 1) -> Tensor:
    """Return the mean over the kept rows of each layer, summed over layers.

    values: (L, J); kept: (L, J) bool. A layer with fewer than `least` kept rows counts 0.
    """
    count = kept.sum(-1)
    mean = (values * kept).sum(-1) / count.clamp(min=1)
    return (mean * (count >= least)).sum()


def two_way_contrast(
    student: Tensor,
    teacher: Tensor,
    kept: Tensor,
    queues: tuple[Queue, Queue] | None,
    scale: float,
    least: int = 2,
) -> Tensor:
    """Return the contrast of student rows with teacher rows in both directions (eq. 3), summed over layers.

    student, teacher: (L, J, D) unit, finite; row i of one belongs to row i of the other. kept: (L, J) bool.
    queues: of past student rows and of past teacher rows; they only add columns. A layer with fewer than
    `least` kept rows counts 0.
    """
    own = scale * (student * teacher).sum(-1)
    past_student, past_teacher = queues if queues is not None else (None, None)
    forth = _normaliser(student, teacher, kept, past_teacher, scale) - own
    back = _normaliser(teacher, student, kept, past_student, scale) - own
    return mean_of_rows((forth + back) / 2, kept, least)


def _normaliser(rows: Tensor, columns: Tensor, kept: Tensor, past: Queue | None, scale: float) -> Tensor:
    """Return the log of the sum over columns, (L, J)."""
    if past is not None and past.capacity:
        columns = torch.cat([columns, past.rows.to(columns.dtype)], 1)
        kept = torch.cat([kept, past.valid], 1)
    scores = scale * rows @ columns.transpose(1, 2)
    return scores.masked_fill(~kept[:, None], MASKED).logsumexp(-1)


def relation_loss(
    student: Tensor, teacher: Tensor, kept: Tensor, scale: float, temperature: float, least: int = 2
) -> Tensor:
    """Return the KL divergence of similarities within the rows (eq. 4), summed over layers.

    A sum over columns, the diagonal included, and a mean over rows. The teacher is the target. Arguments as
    for `two_way_contrast`.
    """
    target = _similarities(teacher.detach(), kept, scale / temperature)
    found = _similarities(student, kept, scale / temperature)
    divergence = (target.exp() * (target - found)).sum(-1)
    return temperature**2 * mean_of_rows(divergence, kept, least)


def _similarities(rows: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Return the log softmax of each row's similarities, (L, J, J)."""
    scores = scale * rows @ rows.transpose(1, 2)
    return scores.masked_fill(~kept[:, None], MASKED).log_softmax(-1)
