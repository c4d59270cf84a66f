"""The training losses (METHOD.md section 5), on every decoder layer, without loops over photos.

Shape legend: L decoder layers, B photos, N queries, M most objects of a photo (padded), K matched pairs,
C classes, D teacher width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.config import LossConfig
from cckt.detector.losses.contrast import ALONE, Ranks, contrast_of_cells, contrastive_loss
from cckt.detector.losses.matcher import Matches, class_agnostic, without_names
from cckt.detector.students.boxes import generalised_iou
from cckt.detector.students.contract import (
    NEVER,
    DetectorOutput,
    NoisedQueries,
    PaddedTargets,
    Proposals,
    Targets,
    pad_targets,
)
from cckt.detector.students.precision import single

__all__ = ["Targets", "compute_losses", "focal_loss"]


def compute_losses(
    output: DetectorOutput,
    targets: Sequence[Targets] | PaddedTargets,
    matches: Matches,
    config: LossConfig,
    *,
    contrast: bool,
    world_objects: float | Tensor | None = None,
    bank: Tensor | None = None,
    present: Tensor | None = None,
    noised: NoisedQueries | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Weighted losses, summed over layers: "class", "l1", "giou", "contrast" and their sum "total".

    Where the output has them also "proposals", of the cells; "denoise", of the denoising queries `noised`;
    and "one_to_many", of the copies of the queries. present: (B, G) concepts the photos were guided by, rows
    of the text matrix, -1 past the end; needed where words chose among the cells.

    contrast: whether the contrastive loss is on (the schedule's word). world_objects: what every sum is
    divided by, at least 1: the objects of the global batch over the number of ranks, as DDP averages
    gradients; None counts the objects here. bank: (C, D) unit, a teacher crop of each class for
    teacher_bank="class"; NaN rows have none; None draws one from the batch. ranks: those who contrast
    together, with targets padded alike. Only "total" carries gradients; it does
    so, all zero where they must be, for a batch without objects too.
    """
    padded = pad_targets(targets)
    with torch.autocast(output.boxes.device.type, enabled=False):
        divisor = padded.objects if world_objects is None else world_objects
        divisor = divisor.clamp(min=1) if isinstance(divisor, Tensor) else max(1.0, float(divisor))
        parts = detection_losses(output, padded, matches, config)
        if contrast and config.loss_contrast:
            parts["contrast"] = config.loss_contrast * contrastive_loss(
                single(output.region), padded, matches, config, bank, ranks=ranks
            )
        else:  # keeps the heads' parameters in the graph of every rank and phase
            parts["contrast"] = output.region.sum() * 0.0
        if output.proposals is not None:
            assert matches.proposals is not None, "proposals have matches of their own"
            proposed = class_agnostic(output.proposals)
            found = detection_losses(proposed, without_names(padded), matches.proposals, config)
            loss = torch.stack(list(found.values())).sum()
            if output.proposals.words is not None:
                assert present is not None, "words chose among the cells: which?"
                loss = loss + word_loss(output.proposals, padded, matches.proposals, present, config)
                if contrast and config.loss_contrast:
                    cells = contrast_of_cells(
                        output.proposals, padded, matches.proposals, config, bank, ranks=ranks
                    )
                    loss = loss + config.loss_contrast * cells
            parts["proposals"] = config.loss_proposals * loss
        if output.noised is not None:
            assert noised is not None, "denoising queries: of what?"
            parts["denoise"] = config.loss_denoise * denoising_loss(output.noised, noised, padded, config)
        if output.alone is not None:
            assert matches.alone is not None, "copies of the queries have matches of their own"
            found = detection_losses(output.alone, padded, matches.alone, config)
            loss = torch.stack(list(found.values())).sum() / matches.alone.repeats
            parts["one_to_many"] = config.loss_one_to_many * loss
        parts = {name: value / divisor for name, value in parts.items()}
        total = torch.stack(list(parts.values())).sum()
    return {"total": total} | {name: value.detach() for name, value in parts.items()}


def detection_losses(
    output: DetectorOutput, targets: PaddedTargets, matches: Matches, config: LossConfig
) -> dict[str, Tensor]:
    """The weighted "class", "l1" and "giou", summed over layers and pairs and not yet divided."""
    classes, boxes = single(output.logits), single(output.boxes)
    layer = torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    labels = targets.concepts[matches.images, matches.objects]  # (L, K)
    found = boxes[layer, matches.images, matches.queries]  # (L, K, 4)
    goal = targets.boxes[matches.images, matches.objects].to(found.dtype)
    positive = classes[layer, matches.images, matches.queries, labels]
    return {
        "class": config.loss_class * focal_loss(classes, positive, config.alpha, config.gamma),
        "l1": config.loss_l1 * (found - goal).abs().sum(),
        "giou": config.loss_giou * (1 - generalised_iou(found, goal)).sum(),
    }


def word_loss(
    proposals: Proposals, targets: PaddedTargets, matches: Matches, present: Tensor, config: LossConfig
) -> Tensor:
    """Weighted focal loss of the present concepts at every cell, of which a matched cell's own should be 1.

    Only words that were given are judged: an object that no one named is background to none that names it.
    """
    assert proposals.words is not None
    given = present >= 0
    if present.shape[1] < proposals.words.shape[2]:  # the batch has no word: none is judged
        given = given.new_zeros((len(given), proposals.words.shape[2]))
        present = present.new_full(given.shape, -1)
    kept = given[:, None] & (proposals.objectness > NEVER / 2)[..., None]
    logits = proposals.words.masked_fill(~kept, NEVER)
    own = present[matches.images] == targets.concepts[matches.images, matches.objects[0]][:, None]  # (K, G)
    positive = logits[matches.images, matches.queries[0]]
    weight = own.to(logits.dtype)
    return config.loss_class * focal_loss(logits, positive, config.alpha, config.gamma, weight)


def denoising_loss(
    output: DetectorOutput, noised: NoisedQueries, targets: PaddedTargets, config: LossConfig
) -> Tensor:
    """Weighted class, L1 and GIoU losses of the denoising queries, summed, as a mean over groups.

    output: of the Q queries. The caller divides by the objects.
    """
    layers, photos = output.boxes.shape[:2]
    objects = targets.boxes.shape[1]
    split = (layers, photos, noised.groups, 2, objects)
    real = noised.real.view(split[1:])[:, :, 0].to(output.boxes.dtype)  # (B, R, M)
    boxes = output.boxes.view(*split, 4)[:, :, :, 0]  # (L, B, R, M, 4)
    goal = targets.boxes.to(boxes.dtype)[None, :, None]
    # A padded slot must neither be background nor object.
    logits = output.logits.masked_fill(~noised.real[None, :, :, None], NEVER)
    column = targets.concepts[None, :, None, :, None].expand(*boxes.shape[:-1], 1)
    positive = logits.view(*split, logits.shape[-1])[:, :, :, 0].gather(-1, column).squeeze(-1)
    loss = config.loss_class * focal_loss(logits, positive, config.alpha, config.gamma, weight=real)
    loss = loss + config.loss_l1 * ((boxes - goal).abs().sum(-1) * real).sum()
    loss = loss + config.loss_giou * ((1 - generalised_iou(boxes, goal)) * real).sum()
    return loss / noised.groups


def focal_loss(
    logits: Tensor, positive: Tensor, alpha: float, gamma: float, weight: Tensor | None = None
) -> Tensor:
    """Sum of the sigmoid focal loss (Lin et al., 2017) over all logits, of which `positive` should be 1.

    logits: any shape, all of them taken as background; positive: the entries of it (differentiably gathered)
    that are not, for which that is put right. No one-hot target is built. weight: of `positive`'s shape, 1
    where it holds and 0 where there is nothing to put right; None for 1 everywhere.
    """

    def background(x: Tensor) -> Tensor:
        return (1 - alpha) * x.sigmoid() ** gamma * F.softplus(x)

    object_ = alpha * (-positive).sigmoid() ** gamma * F.softplus(-positive)
    put_right = object_ - background(positive)
    return background(logits).sum() + (put_right if weight is None else put_right * weight).sum()
