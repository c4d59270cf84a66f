"""Detection losses of matched regions, on every output layer, without loops over images.

docs/method/cckt_det.md, eqs. 16 and 17. Shape legend: L output layers, B images, N regions, K pairs, C
concepts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.config import LossConfig
from cckt.detector.students.boxes import generalised_iou, paired_iou
from cckt.detector.students.contract import MASKED, Pairs, StudentOutput
from cckt.detector.students.precision import single
from cckt.detector.students.targets import PaddedTargets


def detection_losses(
    output: StudentOutput, targets: PaddedTargets, pairs: Pairs, config: LossConfig
) -> dict[str, Tensor]:
    """Return the weighted losses "class", "l1" and "giou", summed over layers and pairs, not divided."""
    classes, boxes = single(output.logits), single(output.boxes)
    layer = torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    labels = targets.concepts[pairs.images, pairs.objects]  # (L, K)
    found = boxes[layer, pairs.images, pairs.regions]  # (L, K, 4)
    goal = targets.boxes[pairs.images, pairs.objects].to(found.dtype)
    positive = classes[layer, pairs.images, pairs.regions, labels]
    return {
        "class": config.loss_class * class_loss(classes, positive, found, goal, config),
        "l1": config.loss_l1 * (found - goal).abs().sum(),
        "giou": config.loss_giou * (1 - generalised_iou(found, goal)).sum(),
    }


def class_loss(
    logits: Tensor,
    positive: Tensor,
    found: Tensor,
    goal: Tensor,
    config: LossConfig,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the sum over all logits of the loss that `loss.class_target` names
    (docs/method/cckt_det.md, eqs. 16, 33 and 34).

    logits, positive, weight: as for `focal_loss`. found, goal: boxes (..., 4) of the positives, as regions
    and as objects; no gradient flows through their IoU.
    """
    if config.class_target == "focal":
        return focal_loss(logits, positive, config.alpha, config.gamma, weight)
    varifocal = config.class_target == "varifocal"
    share = 1 - config.alpha if varifocal else 1.0
    iou = paired_iou(found, goal).detach()
    target, scale = (iou, iou) if varifocal else (iou**config.gamma, torch.ones_like(iou))

    def negative(x: Tensor) -> Tensor:
        return share * x.sigmoid() ** config.gamma * F.softplus(x)

    # softplus(x) - t x is the cross-entropy -t log p - (1 - t) log(1 - p).
    correction = scale * (F.softplus(positive) - target * positive) - negative(positive)
    return negative(logits).sum() + (correction if weight is None else correction * weight).sum()


def objectness_loss(
    objectness: Tensor, pairs: Pairs, config: LossConfig, kept: Tensor | None = None
) -> Tensor:
    """Return the weighted focal loss of objectness, summed (docs/method/hd_ovd.md, eq. 47).

    objectness: (L, B, N) logits. Regions in a pair, with an object or a proposal, are positives. kept: (B, N)
    bool, False at regions that only fill the tensor.
    """
    logits = single(objectness)
    if kept is not None:
        logits = logits.masked_fill(~kept, MASKED)
    layer = torch.arange(len(logits), device=logits.device)[:, None]
    every = [pairs] if pairs.proposals is None else [pairs, pairs.proposals]
    positive = torch.cat([logits[layer, one.images, one.regions] for one in every], 1)
    return config.loss_objectness * focal_loss(logits, positive, config.alpha, config.gamma)


def focal_loss(
    logits: Tensor, positive: Tensor, alpha: float, gamma: float, weight: Tensor | None = None
) -> Tensor:
    """Return the sum of the sigmoid focal loss (Lin et al., 2017) over all logits (eq. 16).

    logits: any shape. positive: the entries of `logits` (gathered differentiably) whose target is 1; all
    others have target 0. No one-hot target is built. weight: shape of `positive`, 1 where its entry is a
    positive and 0 where it is padding; None for 1 everywhere.
    """

    def negative(x: Tensor) -> Tensor:
        return (1 - alpha) * x.sigmoid() ** gamma * F.softplus(x)

    correction = alpha * (-positive).sigmoid() ** gamma * F.softplus(-positive) - negative(positive)
    return negative(logits).sum() + (correction if weight is None else correction * weight).sum()
