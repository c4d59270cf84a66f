"""Pairs and losses of AdaMixer (docs/method/hd_ovd.md, sections 4 and 7.1).

Shape legend: L stages, B images, N queries, M most objects of an image, C concepts, K pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cckt.detector.config.config import Config
from cckt.detector.students.adamixer.dense_loss import dense_losses
from cckt.detector.students.adamixer.outputs import MixerOutput
from cckt.detector.students.boxes import generalised_iou, to_xyxy
from cckt.detector.students.contract import MASKED, DetectionLoss, Pairs
from cckt.detector.students.detection_loss import focal_loss
from cckt.detector.students.matching import Follower, assign, class_agnostic_costs, matching_costs
from cckt.detector.students.targets import PaddedTargets


@torch.no_grad()
def match(output: MixerOutput, targets: PaddedTargets, text: Tensor, config: Config) -> Pairs:
    """Assign queries to objects, then queries that are left free to distilled proposals, on every stage.

    The padding of the queries, which are its last ones, is in no pair.
    """
    assert output.kept is not None, "the output has no mask"
    matcher, queries = config.matcher, output.kept.sum(1).tolist()
    with torch.autocast(output.boxes.device.type, enabled=False):
        if matcher.class_agnostic:
            costs = class_agnostic_costs(output, targets.boxes, matcher)
        else:
            costs = matching_costs(output, targets, text, matcher, config.model.tau)
        follower, proposals = None, targets.proposals
        if proposals is not None:
            most = max(proposals.distilled_counts, default=0)
            later = class_agnostic_costs(output, proposals.boxes[:, :most], matcher)
            follower = Follower(later, proposals.distilled_counts)
    return assign([costs], targets.counts, [1], [follower], queries)[0]


def detection_loss(
    output: MixerOutput, targets: PaddedTargets, pairs: Pairs, config: Config
) -> DetectionLoss:
    """Return "class", "l1", "giou" and "objectness" of the queries (eq. 47), and the dense losses (eq. 42).

    Classes and boxes learn from objects only; a query that is paired with a proposal has no class. The dense
    losses are means. L1 is on xyxy, divided by width and height.
    """
    assert output.objectness is not None, "the output has no objectness"
    assert output.kept is not None, "the output has no mask"
    assert output.dense is not None, "the output has no dense boxes"
    loss = config.loss
    with torch.autocast(output.boxes.device.type, enabled=False):
        layer = torch.arange(len(output.boxes), device=output.boxes.device)[:, None]
        at = (layer, pairs.images, pairs.regions)
        found, goal = output.boxes[at], targets.boxes[pairs.images, pairs.objects].float()
        used = output.kept.expand(len(output.boxes), -1, -1).clone()
        positive = output.objectness[at]
        if pairs.proposals is not None:
            others = (layer, pairs.proposals.images, pairs.proposals.regions)
            used[others] = False
            positive = torch.cat([positive, output.objectness[others]], 1)
        logits = output.logits.masked_fill(~used[..., None], MASKED)
        labels = targets.concepts[pairs.images, pairs.objects]
        focal = focal_loss(logits, logits[(*at, labels)], loss.alpha, loss.gamma)
        objectness = focal_loss(output.objectness, positive, loss.alpha, loss.gamma)
        losses = {
            "class": loss.loss_class * focal,
            "l1": loss.loss_l1 * (to_xyxy(found) - to_xyxy(goal)).abs().sum(),
            "giou": loss.loss_giou * (1 - generalised_iou(found, goal)).sum(),
            "objectness": loss.loss_objectness * objectness,
        }
        return DetectionLoss(losses, means=dense_losses(output.dense, targets, config))
