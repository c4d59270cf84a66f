"""Pairs and losses of Faster R-CNN (docs/method/hd_ovd.md, section 7.2).

Shape legend: B images, N RoIs, M most objects of an image, C concepts, K pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cckt.detector.config.config import Config
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import MASKED, DetectionLoss, Pairs
from cckt.detector.students.detection_loss import focal_loss
from cckt.detector.students.faster_rcnn.codes import ROI_SCALES, encode
from cckt.detector.students.faster_rcnn.outputs import RoiOutput
from cckt.detector.students.faster_rcnn.rois import RoiGoals
from cckt.detector.students.faster_rcnn.rpn import RegionProposer
from cckt.detector.students.targets import PaddedTargets


@torch.no_grad()
def match(output: RoiOutput, targets: PaddedTargets, config: Config) -> Pairs:
    """Pair every positive RoI with the object or distilled proposal of largest IoU, at least `roi_iou`.

    An object may have several RoIs, or none.
    """
    assert output.rois is not None, "the output has no RoIs"
    assert output.sizes is not None, "the output has no sizes"
    assert output.kept is not None, "the output has no mask"
    goals = RoiGoals.of(targets, output.sizes)
    largest, column = goals.assign(output.rois)
    positive = output.kept & (largest >= config.faster_rcnn.roi_iou)
    is_object = column < goals.objects
    own = _pairs(positive & is_object, column)
    if targets.proposals is None:
        return own
    others = _pairs(positive & ~is_object, column - goals.objects)
    return Pairs(own.images, own.regions, own.objects, proposals=others)


def _pairs(mask: Tensor, column: Tensor) -> Pairs:
    images, regions = mask.nonzero(as_tuple=True)
    return Pairs(images, regions[None], column[images, regions][None])


def detection_loss(
    output: RoiOutput, targets: PaddedTargets, pairs: Pairs, proposer: RegionProposer, config: Config
) -> DetectionLoss:
    """Return "class", "box", "rpn_class" and "rpn_box" (eq. 49 without the terms); all are means.

    class: the focal loss over base classes, divided by the RoIs that are paired with an object; RoIs of
    proposals take no part. box: L1 of the codes of RoIs that are paired with an object, divided by all RoIs.
    """
    assert output.rois is not None, "the output has no RoIs"
    assert output.codes is not None, "the output has no codes"
    assert output.sizes is not None, "the output has no sizes"
    assert output.kept is not None, "the output has no mask"
    assert output.rpn is not None, "the output has no RPN"
    with torch.autocast(output.boxes.device.type, enabled=False):
        at, loss = (pairs.images, pairs.regions[0]), config.loss
        used = output.kept.clone()
        if pairs.proposals is not None:
            used[pairs.proposals.images, pairs.proposals.regions[0]] = False
        logits = output.logits[-1].masked_fill(~used[..., None], MASKED)
        labels = targets.concepts[pairs.images, pairs.objects[0]]
        focal = focal_loss(logits, logits[(*at, labels)], loss.alpha, loss.gamma)
        scale = output.sizes.repeat(1, 2)[:, None]
        goal = (to_xyxy(targets.boxes.float()) * scale)[pairs.images, pairs.objects[0]]
        distance = (output.codes[at] - encode(goal, output.rois[at], ROI_SCALES)).abs().sum()
        means = {
            "class": loss.loss_class * focal / max(1, len(labels)),
            "box": config.faster_rcnn.loss_box * distance / output.kept.sum().clamp(min=1),
        }
        goals = _rpn_goals(targets, output.sizes)
        return DetectionLoss({}, means=means | proposer.losses(output.rpn, goals))


def _rpn_goals(targets: PaddedTargets, sizes: Tensor) -> list[Tensor]:
    """Return per image the boxes of its objects and of all its proposals, (M, 4) xyxy in pixels."""
    scale = sizes.repeat(1, 2)
    found = []
    for image, count in enumerate(targets.counts):
        boxes = [targets.boxes[image, :count]]
        if targets.proposals is not None:
            boxes.append(targets.proposals.boxes[image, : targets.proposals.counts[image]])
        found.append(to_xyxy(torch.cat(boxes).float()) * scale[image])
    return found
