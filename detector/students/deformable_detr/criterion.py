"""Matching and detection losses of Deformable DETR: queries, encoder cells, denoising queries, one-to-many
copies.

docs/method/cckt_det.md, eqs. 14 to 17, and 25 to 27 for what goes beyond the paper. Shape legend: L decoder
layers, B images, N queries, M most objects of an image (padded), S encoder cells, Q denoising queries, R
groups, G concepts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cckt.detector.config.config import Config, LossConfig, MatcherConfig
from cckt.detector.students.boxes import generalised_iou
from cckt.detector.students.contract import MASKED, DetectionLoss, ExtraRegions, Pairs, StudentOutput
from cckt.detector.students.deformable_detr.outputs import (
    DeformableOutput,
    DeformablePairs,
    EncoderCells,
    NoisedQueries,
    TrainingQueries,
)
from cckt.detector.students.detection_loss import (
    class_loss,
    detection_losses,
    focal_loss,
    objectness_loss,
)
from cckt.detector.students.matching import Follower, assign, class_agnostic_costs, matching_costs
from cckt.detector.students.targets import PaddedProposals, PaddedTargets


def match(output: DeformableOutput, targets: PaddedTargets, text: Tensor, config: Config) -> DeformablePairs:
    """Assign queries, encoder cells and copies to objects: one transfer from the device and one back.

    text: (C, D) unit, the rows that `concepts` point to. Copies are matched `one_to_many.repeats` times per
    object. Distilled proposals are matched to queries that the objects leave free, by objectness and boxes
    (docs/method/hd_ovd.md, section 4); with `loss.cells_learn_proposals`, all proposals to free cells too.
    """
    tau, matcher = config.model.tau, config.matcher
    proposals = targets.proposals
    with torch.autocast(output.boxes.device.type, enabled=False):
        if matcher.class_agnostic:
            costs = [class_agnostic_costs(output, targets.boxes, matcher)]
        else:
            costs = [matching_costs(output, targets, text, matcher, tau)]
        repeats, followers = [1], [None if proposals is None else follower_of(output, proposals, matcher)]
        if output.cells is not None:
            class_only = replace(matcher, cost_similarity=0.0)
            as_output = class_agnostic(output.cells)
            costs.append(matching_costs(as_output, without_concepts(targets), text, class_only, tau))
            repeats.append(1)
            learns = proposals is not None and config.loss.cells_learn_proposals
            followers.append(cell_follower(as_output, targets, class_only, tau) if learns else None)
        if output.copies is not None:
            costs.append(matching_costs(output.copies, targets, text, matcher, tau))
            repeats.append(config.one_to_many.repeats)
        if output.dense is not None:
            class_only = replace(matcher, cost_similarity=0.0)
            every = class_agnostic(output.dense)
            costs.append(matching_costs(every, without_concepts(targets), text, class_only, tau))
            repeats.append(config.one_to_many.encoder_repeats)
    found = assign(costs, targets.counts, repeats, followers)
    dense = found.pop() if output.dense is not None else None
    copies = found.pop() if output.copies is not None else None
    cells = found.pop() if output.cells is not None else None
    own = found[0]
    return DeformablePairs(
        own.images, own.regions, own.objects, own.proposals, cells=cells, copies=copies, dense=dense
    )


def follower_of(output: StudentOutput, proposals: PaddedProposals, matcher: MatcherConfig) -> Follower:
    """Return the assignment of the distilled proposals to free queries."""
    most = max(proposals.distilled_counts, default=0)
    costs = class_agnostic_costs(output, proposals.boxes[:, :most], matcher)
    return Follower(costs, proposals.distilled_counts)


def cell_follower(
    cells: StudentOutput, targets: PaddedTargets, matcher: MatcherConfig, tau: float
) -> Follower:
    """Return the assignment of all proposals to free cells, with the cost that objects have."""
    assert targets.proposals is not None, "targets without proposals"
    goals = as_targets(targets.proposals)
    return Follower(matching_costs(cells, goals, cells.region[0, 0], matcher, tau), goals.counts)


def as_targets(proposals: PaddedProposals) -> PaddedTargets:
    """Return proposals as objects of class 0."""
    concepts = torch.zeros_like(proposals.real, dtype=torch.int64)
    return PaddedTargets(proposals.boxes, concepts, proposals.real, proposals.counts)


def detection_loss(
    output: DeformableOutput,
    targets: PaddedTargets,
    pairs: DeformablePairs,
    present: Tensor | None,
    training: TrainingQueries | None,
    config: Config,
) -> DetectionLoss:
    """Return "class", "l1", "giou" and, with that head, "objectness" of the queries, and "proposals",
    "denoise", "one_to_many" and "encoder_head" if there are any.

    present: (B, G) rows of the text matrix that guided the images, -1 past the end; needed with guided
    references.
    """
    loss = config.loss
    with torch.autocast(output.boxes.device.type, enabled=False):
        own = detection_losses(output, targets, pairs, loss)
        if output.objectness is not None:
            own["objectness"] = objectness_loss(output.objectness, pairs, loss, output.kept)
        auxiliary: dict[str, Tensor] = {}
        extra: tuple[ExtraRegions, ...] = ()
        if output.cells is not None:
            assert pairs.cells is not None, "the output has cells, the pairs have none"
            auxiliary["proposals"] = loss.loss_proposals * cell_loss(
                output.cells, targets, pairs.cells, present, loss
            )
            if output.cells.region is not None:
                extra = (ExtraRegions("proposals", loss.loss_proposals, output.cells.region, pairs.cells),)
        if output.noised is not None:
            assert training is not None, "the output has denoising queries, `training` is None"
            assert training.noised is not None, "the output has denoising queries, `training` has none"
            auxiliary["denoise"] = config.denoise.weight * denoising_loss(
                output.noised, training.noised, targets, loss
            )
        if output.copies is not None:
            assert pairs.copies is not None, "the output has copies, the pairs have none"
            parts = detection_losses(output.copies, targets, pairs.copies, loss)
            total = torch.stack(list(parts.values())).sum() / config.one_to_many.repeats
            auxiliary["one_to_many"] = config.one_to_many.weight * total
        if output.dense is not None:
            assert pairs.dense is not None, "the output has dense cells, the pairs have none"
            parts = cell_parts(class_agnostic(output.dense), targets, pairs.dense, loss)
            total = torch.stack(list(parts.values())).sum() / config.one_to_many.encoder_repeats
            auxiliary["encoder_head"] = config.one_to_many.encoder_weight * total
    return DetectionLoss(own, auxiliary, extra)


def cell_loss(
    cells: EncoderCells, targets: PaddedTargets, pairs: Pairs, present: Tensor | None, config: LossConfig
) -> Tensor:
    """Return the class-agnostic detection losses of the cells, and the losses of their concepts (eq. 25)."""
    parts = cell_parts(class_agnostic(cells), targets, pairs, config)
    total = torch.stack(list(parts.values())).sum()
    if cells.words is None:
        return total
    assert present is not None, "guided references need `present`, the concepts of the guidance"
    return total + word_loss(cells, targets, pairs, present, config)


def cell_parts(
    cells: StudentOutput, targets: PaddedTargets, pairs: Pairs, config: LossConfig
) -> dict[str, Tensor]:
    """Return the class-agnostic losses of the cells; those in a pair with a proposal are positives too.

    Their class "object" has the weight of objectness: they choose the queries, so they also learn where
    `loss.loss_class` is 0 because another head names the objects.
    """
    goals, found, more = without_concepts(targets), pairs, pairs.proposals
    if more is not None:
        assert targets.proposals is not None, "pairs of proposals without proposals"
        added, objects = as_targets(targets.proposals), goals.boxes.shape[1]
        goals = PaddedTargets(
            torch.cat([goals.boxes, added.boxes], 1),
            torch.cat([goals.concepts, added.concepts], 1),
            torch.cat([goals.real, added.real], 1),
            goals.counts,
        )
        found = Pairs(
            torch.cat([pairs.images, more.images]),
            torch.cat([pairs.regions, more.regions], 1),
            torch.cat([pairs.objects, more.objects + objects], 1),
        )
    return detection_losses(cells, goals, found, replace(config, loss_class=config.loss_objectness))


def word_loss(
    cells: EncoderCells, targets: PaddedTargets, pairs: Pairs, present: Tensor, config: LossConfig
) -> Tensor:
    """Return the weighted focal loss of the present concepts at every cell; a matched cell's own concept is
    1.

    Only concepts of the guidance take part: an object without one is background to the others.
    """
    assert cells.words is not None, "the cells have no words"
    given = present >= 0
    if present.shape[1] < cells.words.shape[2]:  # no image of the batch has a concept
        given = given.new_zeros((len(given), cells.words.shape[2]))
        present = present.new_full(given.shape, -1)
    kept = given[:, None] & (cells.objectness > MASKED / 2)[..., None]
    logits = cells.words.masked_fill(~kept, MASKED)
    own = present[pairs.images] == targets.concepts[pairs.images, pairs.objects[0]][:, None]  # (K, G)
    positive = logits[pairs.images, pairs.regions[0]]
    weight = own.to(logits.dtype)
    return config.loss_class * focal_loss(logits, positive, config.alpha, config.gamma, weight)


def denoising_loss(
    output: StudentOutput, noised: NoisedQueries, targets: PaddedTargets, config: LossConfig
) -> Tensor:
    """Return the weighted class, L1 and GIoU losses of the denoising queries, summed, as a mean over groups.

    output: of the Q queries.
    """
    layers, images = output.boxes.shape[:2]
    objects = targets.boxes.shape[1]
    split = (layers, images, noised.groups, 2, objects)
    real = noised.real.view(split[1:])[:, :, 0].to(output.boxes.dtype)  # (B, R, M)
    boxes = output.boxes.view(*split, 4)[:, :, :, 0]  # (L, B, R, M, 4)
    goal = targets.boxes.to(boxes.dtype)[None, :, None]
    # Padding must be neither background nor object.
    logits = output.logits.masked_fill(~noised.real[None, :, :, None], MASKED)
    column = targets.concepts[None, :, None, :, None].expand(*boxes.shape[:-1], 1)
    positive = logits.view(*split, logits.shape[-1])[:, :, :, 0].gather(-1, column).squeeze(-1)
    near = goal.expand_as(boxes)
    loss = config.loss_class * class_loss(logits, positive, boxes, near, config, weight=real)
    loss = loss + config.loss_l1 * ((boxes - goal).abs().sum(-1) * real).sum()
    loss = loss + config.loss_giou * ((1 - generalised_iou(boxes, goal)) * real).sum()
    return loss / noised.groups


def class_agnostic(cells: EncoderCells) -> StudentOutput:
    """Return the cells as an output of one layer with one class, "object", and embeddings of width 0."""
    boxes = cells.boxes[None]
    return StudentOutput(boxes, cells.objectness[None, ..., None], boxes[..., :0])


def without_concepts(targets: PaddedTargets) -> PaddedTargets:
    """Return the same objects, all of class 0."""
    return replace(targets, concepts=torch.zeros_like(targets.concepts))
