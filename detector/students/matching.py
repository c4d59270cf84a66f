"""Hungarian matching: one region per object, per image and output layer (docs/method/cckt_det.md, eqs. 12 to
15).

Shape legend: L output layers, B images, N regions, M most objects of an image (others are padded), C
concepts, K pairs of the batch, the sum of min(N, objects of the image) on every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cckt.detector.config.config import MatcherConfig
from cckt.detector.students.boxes import generalised_iou
from cckt.detector.students.contract import Pairs, StudentOutput
from cckt.detector.students.targets import PaddedTargets

THREADED_CELLS = 1 << 18
"""Cost cells per batch from which worker threads save more than their start costs."""


def focal_class_cost(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss of the class as positive minus that as negative (eq. 13). logits: any shape."""
    probability = logits.sigmoid()
    positive = alpha * (1 - probability) ** gamma * -torch.nn.functional.logsigmoid(logits)
    negative = (1 - alpha) * probability**gamma * -torch.nn.functional.logsigmoid(-logits)
    return positive - negative


@torch.no_grad()
def matching_costs(
    output: StudentOutput, targets: PaddedTargets, text: Tensor, config: MatcherConfig, tau: float
) -> Tensor:
    """Return (L, B, N, M) matching costs (eq. 14); columns of the padding are undefined.

    text: (C, D) unit. tau: temperature of the similarity probability (eq. 12).
    """
    layers, _, regions, _ = output.boxes.shape
    boxes, goal = output.boxes.float(), targets.boxes.float()
    column = targets.concepts[None, :, None].expand(layers, -1, regions, -1)
    cost = config.cost_class * focal_class_cost(
        output.logits.float().gather(-1, column), config.alpha, config.gamma
    )
    if config.cost_similarity:
        words = text.float()[targets.concepts].transpose(1, 2)  # (B, D, M)
        cost -= config.cost_similarity * (output.region.float() @ words / tau).sigmoid()
    if config.cost_l1:
        cost += config.cost_l1 * torch.cdist(boxes, goal.expand(layers, -1, -1, -1), p=1)
    if config.cost_giou:
        cost -= config.cost_giou * generalised_iou(boxes[..., None, :], goal[None, :, None])
    return cost


def assign(costs: Sequence[Tensor], counts: Sequence[int], repeats: Sequence[int]) -> list[Pairs]:
    """Solve the assignment of several cost tables (eq. 15) with one transfer from the device and one back.

    costs: tables of (L, B, N, M), each with its own L and N. counts: (B,) objects of each image. repeats: per
    table, how often each object is matched. Non-finite costs count as very high, so that a diverged model
    still matches.
    """
    flat = torch.cat([one.flatten() for one in costs])
    flat = torch.nan_to_num(flat, nan=1e6, posinf=1e6, neginf=-1e6)
    values = flat.cpu().numpy()
    tables = np.split(values, np.cumsum([one.numel() for one in costs])[:-1])
    shaped = [table.reshape(one.shape) for table, one in zip(tables, costs, strict=True)]
    jobs = [
        np.tile(table[layer, b, :, :count], times) if times > 1 else table[layer, b, :, :count]
        for table, times in zip(shaped, repeats, strict=True)
        for layer in range(len(table))
        for b, count in enumerate(counts)
    ]
    if values.size >= THREADED_CELLS:
        solved = list(_workers().map(linear_sum_assignment, jobs))
    else:
        solved = [linear_sum_assignment(job) for job in jobs]
    parts, done = [], 0
    for table, times in zip(shaped, repeats, strict=True):
        layers, images, regions = table.shape[:3]
        sizes = [min(regions, times * count) for count in counts]
        part: NDArray[np.int64] = np.zeros((3, layers, sum(sizes)), np.int64)
        part[0] = np.repeat(np.arange(images), sizes)
        own = solved[done : done + layers * images]
        done += layers * images
        if own and part.size:
            part[1] = np.concatenate([rows for rows, _ in own]).reshape(layers, -1)
            part[2] = np.concatenate([columns for _, columns in own]).reshape(layers, -1)
            part[2] %= np.maximum(np.repeat(counts, sizes), 1)  # repeated columns are the same object
        parts.append(part)
    moved = torch.from_numpy(np.concatenate([part.ravel() for part in parts])).to(costs[0].device)
    pieces = torch.split(moved, [part.size for part in parts])
    found = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return [Pairs(one[0, 0], one[1], one[2]) for one in found]


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="assignment")
