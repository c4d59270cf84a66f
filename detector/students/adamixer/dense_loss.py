"""Assignment and loss of the dense boxes of AdaMixer (docs/method/hd_ovd.md, eqs. 41 and 42).

Shape legend: B images, S points, T candidates, M most goals of an image (objects, then all proposals).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.config import Config, MatcherConfig
from cckt.detector.students.adamixer.outputs import DenseBoxes, DenseOutput
from cckt.detector.students.boxes import generalised_iou, paired_iou, to_xyxy
from cckt.detector.students.contract import StudentOutput
from cckt.detector.students.first_boxes import REAL, rows
from cckt.detector.students.matching import assign, class_agnostic_costs
from cckt.detector.students.targets import PaddedTargets

ALIGNMENT_POWER = 6
"""Power of the IoU in eq. 41."""
NEVER = 1e4
"""Cost of what is no candidate: above every other cost, and finite for the assignment."""


@dataclass(frozen=True)
class DenseGoals:
    """What dense boxes learn: per image its objects and then all its proposals, without gaps."""

    boxes: Tensor
    """(B, M, 4) float32 cxcywh, normalised to the unpadded image."""
    real: Tensor
    """(B, M) bool."""
    counts: tuple[int, ...]

    @staticmethod
    def of(targets: PaddedTargets) -> DenseGoals:
        """Of the targets of a batch."""
        if targets.proposals is None:
            return DenseGoals(targets.boxes.float(), targets.real, targets.counts)
        boxes = torch.cat([targets.boxes, targets.proposals.boxes], 1).float()
        real = torch.cat([targets.real, targets.proposals.real], 1)
        order = (~real).long().argsort(dim=1, stable=True)
        counts = zip(targets.counts, targets.proposals.counts, strict=True)
        return DenseGoals(rows(boxes, order), rows(real, order), tuple(a + b for a, b in counts))


@dataclass(frozen=True)
class SoftTargets:
    """The goal of every dense box."""

    goal: Tensor
    """(B, S) int64, column of the goals; undefined where `value` is 0."""
    value: Tensor
    """(B, S) float32, y of eq. 42: 0 for background."""


def dense_losses(dense: DenseOutput, targets: PaddedTargets, config: Config) -> dict[str, Tensor]:
    """Return the weighted losses "dense" and "dense_auxiliary", each divided by its sum of y, at least 1."""
    goals = DenseGoals.of(targets)
    main = one_to_one(dense.candidates, goals, config.matcher)
    losses = {"dense": quality_loss(dense.candidates, main, goals, config)}
    if dense.auxiliary is not None:
        many = one_to_many(dense.auxiliary, dense.points, goals, config.adamixer.dense_candidates)
        losses["dense_auxiliary"] = quality_loss(dense.auxiliary, many, goals, config)
    return losses


@torch.no_grad()
def one_to_one(found: DenseBoxes, goals: DenseGoals, matcher: MatcherConfig) -> SoftTargets:
    """Hungarian assignment of the candidates that are left after NMS (cost of eq. 14)."""
    real = found.objectness > REAL
    boxes = found.boxes[None]
    output = StudentOutput(boxes, boxes[..., :0], boxes[..., :0], objectness=found.objectness[None])
    cost = class_agnostic_costs(output, goals.boxes, matcher).masked_fill(~real[..., None], NEVER)
    pairs = assign([cost], goals.counts, [1])[0]
    member = torch.zeros_like(cost[0], dtype=torch.bool)
    member[pairs.images, pairs.regions[0], pairs.objects[0]] = True
    return soft_targets(found, member & real[..., None], goals)


@torch.no_grad()
def one_to_many(found: DenseBoxes, points: Tensor, goals: DenseGoals, candidates: int) -> SoftTargets:
    """Task-aligned assignment (Feng et al., ICCV 2021): the points of highest alignment of each goal, if they
    lie inside it. A point of several goals stands for the one with the largest IoU."""
    corners = to_xyxy(goals.boxes)[:, None]
    at = points[:, :, None]
    within = ((at > corners[..., :2]) & (at < corners[..., 2:])).all(-1)
    overlap = paired_iou(found.boxes[:, :, None], goals.boxes[:, None])
    usable = goals.real[:, None] & (found.objectness > REAL)[..., None]
    aligned = alignment(found.objectness, overlap).masked_fill(~usable, -1.0)
    order = aligned.topk(min(candidates, aligned.shape[1]), dim=1).indices
    member = torch.zeros_like(within).scatter(1, order, True) & within & usable
    if member.shape[-1]:
        largest = overlap.masked_fill(~member, -1.0).argmax(-1)
        member = member & F.one_hot(largest, member.shape[-1]).bool()
    return soft_targets(found, member, goals)


def soft_targets(found: DenseBoxes, member: Tensor, goals: DenseGoals) -> SoftTargets:
    """Return y: the alignment divided by its maximum per goal, times the largest IoU of the goal.

    member: (B, S, M) bool, at most one goal for each box.
    """
    if not member.shape[-1]:
        empty = torch.zeros_like(found.objectness)
        return SoftTargets(empty.long(), empty)
    overlap = paired_iou(found.boxes[:, :, None], goals.boxes[:, None]) * member
    aligned = alignment(found.objectness, overlap)
    top = aligned.amax(1, keepdim=True).clamp(min=1e-12)
    value = aligned / top * overlap.amax(1, keepdim=True)
    return SoftTargets(member.float().argmax(-1), value.sum(-1))


def quality_loss(found: DenseBoxes, aim: SoftTargets, goals: DenseGoals, config: Config) -> Tensor:
    """Return eq. 42: quality focal loss of all boxes, and y-weighted GIoU loss of the positive ones."""
    own, real = config.adamixer, found.objectness > REAL
    p = found.objectness.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(found.objectness, aim.value, reduction="none")
    focal = ((aim.value - p).square() * entropy * real).sum()
    distance = found.boxes.sum() * 0.0
    if goals.boxes.shape[1]:
        near = generalised_iou(found.boxes, rows(goals.boxes, aim.goal))
        distance = distance + (aim.value * (1 - near)).sum()
    total = own.loss_dense_class * focal + own.loss_dense_giou * distance
    return total / aim.value.sum().clamp(min=1.0)


def alignment(objectness: Tensor, overlap: Tensor) -> Tensor:
    """Return eq. 41 of every box with every goal. objectness: (B, S) logits; overlap: (B, S, M) IoUs."""
    return objectness.sigmoid()[..., None] * overlap**ALIGNMENT_POWER
