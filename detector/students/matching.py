"""Hungarian matching: one region per object, per image and output layer (docs/method/cckt_det.md, eqs. 12 to
15).

Shape legend: L output layers, B images, N regions, M most objects of an image (others are padded), C
concepts, K pairs of the batch, the sum of min(N, objects of the image) on every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cckt.detector.config.config import Config, MatcherConfig, changed
from cckt.detector.students.boxes import generalised_iou, to_xyxy
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


def matching_config(config: Config, region_trained: bool) -> Config:
    """Return the config without the similarity cost where the region embedding is still random
    (`matcher.similarity_from`)."""
    if region_trained or config.matcher.similarity_from == "start" or not config.matcher.cost_similarity:
        return config
    return changed(config, "matcher", cost_similarity=0.0)


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


@torch.no_grad()
def class_agnostic_costs(output: StudentOutput, boxes: Tensor, config: MatcherConfig) -> Tensor:
    """Return (L, B, N, S) costs of objectness and boxes alone (docs/method/hd_ovd.md, eqs. 14 and 15).

    boxes: (B, S, 4) cxcywh. The L1 distance is of xyxy. Without objectness only the boxes count.
    """
    found, goal = output.boxes.float(), boxes.float()
    corners, goal_corners = to_xyxy(found), to_xyxy(goal)
    cost = config.cost_l1 * torch.cdist(corners, goal_corners.expand(len(found), -1, -1, -1), p=1)
    cost = cost - config.cost_giou * generalised_iou(found[..., None, :], goal[None, :, None])
    if output.objectness is None:
        return cost
    objectness = focal_class_cost(output.objectness.float(), config.alpha, config.gamma)
    return cost + config.cost_class * objectness[..., None]


@dataclass(frozen=True)
class Follower:
    """A second assignment of the same regions: to those that the first one of a table leaves free."""

    costs: Tensor
    """(L, B, N, S), with the L and N of the table that it follows."""
    counts: Sequence[int]
    """(B,) boxes of each image; they are its first columns."""


def assign(
    costs: Sequence[Tensor],
    counts: Sequence[int],
    repeats: Sequence[int],
    followers: Sequence[Follower | None] = (),
    regions: Sequence[int] | None = None,
) -> list[Pairs]:
    """Solve the assignment of several cost tables (eq. 15) with one transfer from the device and one back.

    costs: tables of (L, B, N, M), each with its own L and N. counts: (B,) objects of each image. repeats: per
    table, how often each object is matched. followers: per table, a second assignment, whose pairs are
    `Pairs.proposals`. regions: (B,) regions of each image, its first rows in every table; None takes all N.
    Non-finite costs count as very high, so that a diverged model still matches.
    """
    second = [*followers, *[None] * (len(costs) - len(followers))]
    tables = _on_cpu([*costs, *(one.costs for one in second if one is not None)])
    later = iter(tables[len(costs) :])
    rows = [None] * len(counts) if regions is None else list(regions)
    jobs = [
        np.tile(table[layer, b, : rows[b], :count], times)
        if times > 1
        else table[layer, b, : rows[b], :count]
        for table, times in zip(tables, repeats, strict=False)
        for layer in range(len(table))
        for b, count in enumerate(counts)
    ]
    solved = iter(_solve(jobs))
    parts: list[NDArray[np.int64]] = []
    for table, times, follower in zip(tables, repeats, second, strict=False):
        own = [next(solved) for _ in range(len(table) * len(counts))]
        usable = [table.shape[2] if one is None else one for one in rows]
        parts.append(_table_of(own, table.shape, counts, times, usable))
        if follower is not None:
            parts.append(_following(next(later), own, table.shape, follower.counts, usable))
    moved = torch.from_numpy(np.concatenate([part.ravel() for part in parts])).to(costs[0].device)
    pieces = torch.split(moved, [part.size for part in parts])
    found = iter([piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)])
    result = []
    for follower in second:
        one = next(found)
        more = next(found) if follower is not None else None
        proposals = None if more is None else Pairs(more[0, 0], more[1], more[2])
        result.append(Pairs(one[0, 0], one[1], one[2], proposals))
    return result


Solution = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows and columns of an assignment."""


def _on_cpu(costs: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Return the tables in memory, after one transfer."""
    flat = torch.cat([one.flatten() for one in costs])
    flat = torch.nan_to_num(flat, nan=1e6, posinf=1e6, neginf=-1e6)
    pieces = np.split(flat.cpu().numpy(), np.cumsum([one.numel() for one in costs])[:-1])
    return [piece.reshape(one.shape) for piece, one in zip(pieces, costs, strict=True)]


def _solve(jobs: Sequence[NDArray[np.float32]]) -> list[Solution]:
    if sum(job.size for job in jobs) >= THREADED_CELLS:
        return list(_workers().map(linear_sum_assignment, jobs))
    return [linear_sum_assignment(job) for job in jobs]


def _table_of(
    solved: Sequence[Solution],
    shape: tuple[int, ...],
    counts: Sequence[int],
    times: int,
    usable: Sequence[int],
) -> NDArray[np.int64]:
    """Return images, regions and objects of one table's pairs, (3, L, K). usable: (B,) regions of each
    image."""
    layers, images = shape[:2]
    sizes = [min(regions, times * count) for regions, count in zip(usable, counts, strict=True)]
    part: NDArray[np.int64] = np.zeros((3, layers, sum(sizes)), np.int64)
    part[0] = np.repeat(np.arange(images), sizes)
    if solved and part.size:
        part[1] = np.concatenate([rows for rows, _ in solved]).reshape(layers, -1)
        part[2] = np.concatenate([columns for _, columns in solved]).reshape(layers, -1)
        part[2] %= np.maximum(np.repeat(counts, sizes), 1)  # repeated columns are the same object
    return part


def _following(
    table: NDArray[np.float32],
    taken: Sequence[Solution],
    shape: tuple[int, ...],
    counts: Sequence[int],
    usable: Sequence[int],
) -> NDArray[np.int64]:
    """Return `_table_of` the assignment to the regions that are not in `taken`.

    Every layer takes equally many regions of an image, so the free ones are equally many too.
    """
    layers, images = shape[:2]
    free = [
        np.setdiff1d(np.arange(usable[number % images]), rows, assume_unique=True)
        for number, (rows, _) in enumerate(taken)
    ]
    jobs = [
        table[layer, b][free[layer * images + b], : counts[b]]
        for layer in range(layers)
        for b in range(images)
    ]
    solved = [(kept[rows], columns) for kept, (rows, columns) in zip(free, _solve(jobs), strict=True)]
    sizes = [min(len(free[b]), count) for b, count in enumerate(counts)]
    part: NDArray[np.int64] = np.zeros((3, layers, sum(sizes)), np.int64)
    part[0] = np.repeat(np.arange(images), sizes)
    if solved and part.size:
        part[1] = np.concatenate([rows for rows, _ in solved]).reshape(layers, -1)
        part[2] = np.concatenate([columns for _, columns in solved]).reshape(layers, -1)
    return part


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="assignment")
