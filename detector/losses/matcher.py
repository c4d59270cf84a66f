"""One query for each object: Hungarian assignment per photo and decoder layer (METHOD.md section 5).

Shape legend: L decoder layers, B photos, N queries, M most objects of a photo (others are padded), C classes,
K matched pairs of the batch, which is sum of min(N, objects of the photo) on every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cckt.detector.config.config import MatcherConfig
from cckt.detector.students.boxes import generalised_iou
from cckt.detector.students.contract import DetectorOutput, PaddedTargets, Proposals, Targets, pad_targets

THREADED_CELLS = 1 << 18
"""Cost cells of a batch from which worker threads are worth their hand-over."""


@dataclass(frozen=True)
class Matches:
    """The matched pairs, in the same order of photos on every layer."""

    images: Tensor
    """(K,) int64, photo of the pair."""
    queries: Tensor
    """(L, K) int64."""
    objects: Tensor
    """(L, K) int64, number of the object within its photo."""
    proposals: Matches | None = None
    """Cells as queries, of the one layer of proposals, where the output has them."""
    alone: Matches | None = None
    """The copies of the queries, each object `repeats` times, where the output has them."""
    repeats: int = 1
    """How often an object may be matched on a layer."""

    def pairs(self, layer: int, image: int) -> tuple[Tensor, Tensor]:
        """Queries and objects of one photo on one layer."""
        here = self.images == image
        return self.queries[layer, here], self.objects[layer, here]


def focal_class_cost(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss if it were the class, less focal loss if it were not. logits: any shape."""
    probability = logits.sigmoid()
    positive = alpha * (1 - probability) ** gamma * -torch.nn.functional.logsigmoid(logits)
    negative = (1 - alpha) * probability**gamma * -torch.nn.functional.logsigmoid(-logits)
    return positive - negative


@torch.no_grad()
def matching_costs(
    output: DetectorOutput, targets: PaddedTargets, text: Tensor, config: MatcherConfig, tau: float
) -> Tensor:
    """(L, B, N, M) costs; columns at padding mean nothing. text: (C, D) unit; tau: temperature of eq. 4."""
    layers, _, queries, _ = output.boxes.shape
    boxes, goal = output.boxes.float(), targets.boxes.float()
    column = targets.concepts[None, :, None].expand(layers, -1, queries, -1)
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


def match(
    output: DetectorOutput,
    targets: Sequence[Targets] | PaddedTargets,
    text: Tensor,
    config: MatcherConfig,
    tau: float = 0.07,
    repeats: int = 1,
) -> Matches:
    """Assign. One batched cost, one transfer from the device and one back, assignment on the CPU.

    text: (C, D) unit, the rows that `concepts` point to. repeats: how many of the output's copies of queries
    each object gets. Costs that are not finite count as very high, so a
    diverged model still matches.
    """
    padded = pad_targets(targets)
    with torch.autocast(output.boxes.device.type, enabled=False):
        costs = [matching_costs(output, padded, text, config, tau)]
        if output.proposals is not None:
            nameless = replace(config, cost_similarity=0.0)
            proposed = class_agnostic(output.proposals)
            costs.append(matching_costs(proposed, without_names(padded), text, nameless, tau))
        if output.alone is not None:
            costs.append(matching_costs(output.alone, padded, text, config, tau))
    found = assign(
        costs, padded.counts, [1] * (len(costs) - 1) + [repeats if output.alone is not None else 1]
    )
    alone = found.pop() if output.alone is not None else None
    proposals = found.pop() if output.proposals is not None else None
    return replace(found[0], proposals=proposals, alone=alone)


def assign(costs: Sequence[Tensor], counts: Sequence[int], repeats: Sequence[int]) -> list[Matches]:
    """Hungarian assignment of several cost tables at once: one transfer from the device and one back.

    costs: tables of (L, B, N, M), each of its own L and N; counts: (B,) real objects of each photo; repeats:
    for each table how often an object is there to be matched.
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
        layers, photos, queries = table.shape[:3]
        sizes = [min(queries, times * count) for count in counts]
        part: NDArray[np.int64] = np.zeros((3, layers, sum(sizes)), np.int64)
        part[0] = np.repeat(np.arange(photos), sizes)
        mine = solved[done : done + layers * photos]
        done += layers * photos
        if mine and part.size:
            part[1] = np.concatenate([rows for rows, _ in mine]).reshape(layers, -1)
            part[2] = np.concatenate([columns for _, columns in mine]).reshape(layers, -1)
            part[2] %= np.maximum(np.repeat(counts, sizes), 1)  # the number of a repeated object
        parts.append(part)
    moved = torch.from_numpy(np.concatenate([part.ravel() for part in parts])).to(costs[0].device)
    pieces = torch.split(moved, [part.size for part in parts])
    found = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return [
        Matches(one[0, 0], one[1], one[2], repeats=times) for one, times in zip(found, repeats, strict=True)
    ]


def class_agnostic(proposals: Proposals) -> DetectorOutput:
    """Proposals as an output of one layer with one class, "object", and embeddings of no width."""
    boxes = proposals.boxes[None]
    return DetectorOutput(boxes, proposals.objectness[None, ..., None], boxes[..., :0])


def without_names(targets: PaddedTargets) -> PaddedTargets:
    """The same objects, all of class 0."""
    return replace(targets, concepts=torch.zeros_like(targets.concepts))


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="assignment")
