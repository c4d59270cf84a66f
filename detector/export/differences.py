"""How far the boxes and scores of a graph are from those of torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Output = tuple[Tensor, ...]
"""Boxes (B, N, 4) as fractions of the sides, and scores (B, N, C)."""


def differences(pairs: Sequence[tuple[Output, Output]], tolerance: float) -> tuple[list[float], list[float]]:
    """Return the largest and the mean absolute differences of boxes and of scores, [boxes, scores] each.

    pairs: outputs of the graph and of torch for the same images. Regions of a Faster R-CNN, and queries that
    begin at the best cells of an encoder, are in the order of scores, which rounding changes. So the regions
    of an image whose outputs differ by more than `tolerance` are paired: with the least sum of differences,
    each the largest within a region. NaN differs by NaN.
    """
    apart: tuple[list[Tensor], list[Tensor]] = ([], [])
    for found, expected in pairs:
        for image in zip(found[0], found[1], expected[0], expected[1], strict=True):
            boxes, scores, their_boxes, their_scores = image
            order = _order(
                torch.cat([boxes, scores], -1), torch.cat([their_boxes, their_scores], -1), tolerance
            )
            apart[0].append((boxes[order] - their_boxes).abs().flatten())
            apart[1].append((scores[order] - their_scores).abs().flatten())
    joined = [torch.cat(one) for one in apart]
    return [float(one.max()) for one in joined], [float(one.mean()) for one in joined]


def _order(found: Tensor, expected: Tensor, tolerance: float) -> Tensor:
    """Return for each row of `expected` (N, D) the row of `found` (N, D) that it is compared with."""
    same = torch.arange(len(found))
    if bool(((found - expected).abs() <= tolerance).all()) or not bool(found.isfinite().all()):
        return same
    _, order = linear_sum_assignment(torch.cdist(expected.double(), found.double(), p=torch.inf).numpy())
    return torch.from_numpy(order)
