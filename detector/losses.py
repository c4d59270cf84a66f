"""The training losses (METHOD.md section 5), on every decoder layer, without loops over photos.

Shape legend: L decoder layers, B photos, N queries, M most objects of a photo (padded), K matched pairs,
C classes, D teacher width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.boxes import generalised_iou
from detector.config import LossConfig
from detector.matcher import Matches, class_agnostic, without_names
from detector.structures import (
    DetectorOutput,
    NoisedQueries,
    PaddedTargets,
    Proposals,
    Targets,
    pad_targets,
)

__all__ = ["Targets", "compute_losses", "contrastive_loss", "focal_loss"]


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
) -> dict[str, Tensor]:
    """Weighted losses, summed over layers: "class", "l1", "giou", "contrast" and their sum "total".

    Where the output has them also "proposals", of the cells; "denoise", of the denoising queries `noised`;
    and "one_to_many", of the copies of the queries. present: (B, G) concepts the photos were guided by, rows
    of the text matrix, -1 past the end; needed where words chose among the cells.

    contrast: whether the contrastive loss is on (the schedule's word). world_objects: what every sum is
    divided by, at least 1: the objects of the global batch over the number of ranks, as DDP averages
    gradients; None counts the objects here. bank: (C, D) unit, a teacher crop of each class for
    teacher_bank="class"; NaN rows have none; None draws one from the batch. Only "total" carries
    gradients; it does so, all zero where they must be, for a batch without objects too.
    """
    padded = pad_targets(targets)
    with torch.autocast(output.boxes.device.type, enabled=False):
        divisor = padded.objects if world_objects is None else world_objects
        divisor = divisor.clamp(min=1) if isinstance(divisor, Tensor) else max(1.0, float(divisor))
        parts = detection_losses(output, padded, matches, config)
        if contrast and config.loss_contrast:
            parts["contrast"] = config.loss_contrast * contrastive_loss(
                _single(output.region), padded, matches, config, bank
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
                    cells = _cells_alone(output.proposals, padded, matches.proposals)
                    loss = loss + config.loss_contrast * contrastive_loss(*cells, config, bank)
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
    classes, boxes = _single(output.logits), _single(output.boxes)
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
    kept = given[:, None] & (proposals.objectness > -1e3)[..., None]
    logits = proposals.words.masked_fill(~kept, -1e4)
    own = present[matches.images] == targets.concepts[matches.images, matches.objects[0]][:, None]  # (K, G)
    positive = logits[matches.images, matches.queries[0]]
    weight = own.to(logits.dtype)
    return config.loss_class * focal_loss(logits, positive, config.alpha, config.gamma, weight)


def _cells_alone(
    proposals: Proposals, targets: PaddedTargets, matches: Matches
) -> tuple[Tensor, PaddedTargets, Matches]:
    """The matched cells and their objects as one photo of their own: no other cell is a candidate."""
    assert proposals.region is not None
    region = proposals.region[matches.images, matches.queries[0]][None, None]  # (1, 1, K, D)
    at = (matches.images, matches.objects[0])
    objects = PaddedTargets(
        targets.boxes[at][None],
        targets.concepts[at][None],
        targets.embeddings[at][None],
        targets.valid[at][None],
        targets.real[at][None],
        (region.shape[2],),
    )
    number = torch.arange(region.shape[2], device=region.device)
    return region, objects, Matches(torch.zeros_like(number), number[None], number[None])


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
    logits = output.logits.masked_fill(~noised.real[None, :, :, None], -1e4)
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


def contrastive_loss(
    region: Tensor, targets: PaddedTargets, matches: Matches, config: LossConfig, bank: Tensor | None = None
) -> Tensor:
    """Regional contrastive distillation (eqs. 5, 6): half of both ways, summed over layers and objects.

    region: (L, B, N, D) unit. Objects without a teacher embedding are neither rows nor candidates. An object
    that got no query (more objects than queries) is a candidate only. The caller divides by the objects.

    With teacher_bank="class" an object's teacher is its class's crop. Several matched queries of a class are
    then all positives of it, each with its share: the mean over them of -log softmax, once for each object.
    Towards the teacher every class is one candidate.
    """
    teacher, known, candidate = _teacher(targets, config, bank, region.dtype)
    layers, _, queries, _ = region.shape
    images, chosen = matches.images, matches.queries
    if config.negatives == "image":
        # scores[l, b, i, j] = r_i . e_j / tau within photo b
        scores = torch.einsum("bmd,lbnd->lbmn", teacher, region) / config.tau
        per_pair = scores[:, images]  # (L, K, M, N)
        layer = torch.arange(layers, device=region.device)[:, None]
        pair = torch.arange(len(images), device=region.device)[None]
        own = per_pair[layer, pair, matches.objects, chosen]
        to_student = scores.logsumexp(-1)[layer, images, matches.objects]
        columns = per_pair[layer, pair, :, chosen]  # (L, K, M)
        away = ~candidate[images]
    else:
        flat = region.flatten(1, 2)  # (L, B N, D)
        scores = torch.einsum("md,lnd->lmn", teacher.flatten(0, 1), flat) / config.tau  # (L, B M, B N)
        layer = torch.arange(layers, device=region.device)[:, None]
        row, column = images * teacher.shape[1] + matches.objects, images * queries + chosen
        own = scores[layer, row, column]
        to_student = scores.logsumexp(-1)[layer, row]
        columns = scores[layer, :, column]  # (L, K, B M)
        away = ~candidate.flatten().expand(len(images), -1)
    # An invalid pair has weight 0; its logsumexp must be finite all the same, or the gradient is NaN.
    used = known[images, matches.objects]
    to_teacher = columns.masked_fill(away, -1e4).logsumexp(-1)
    return ((to_student - own + to_teacher - own) * used).sum() / 2


def _teacher(
    targets: PaddedTargets, config: LossConfig, bank: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Each object's teacher embedding (B, M, D), and whether it has one, and is a candidate (B, M)."""
    known = targets.valid & targets.real
    teacher = targets.embeddings.to(dtype)
    if config.teacher_bank == "instance":
        return _masked(teacher, known), known, known
    concepts = targets.concepts
    if bank is None:
        drawn = _draw(concepts, known)  # (B, M): a flat object number of the same class
        teacher = teacher.flatten(0, 1)[drawn]
        known = known.flatten()[drawn] & targets.real
    else:
        teacher = bank.to(dtype)[concepts]
        known = teacher.isfinite().all(-1) & targets.real
    return (
        _masked(teacher, known),
        known,
        known & _first(concepts, known, within_photo=config.negatives == "image"),
    )


def _draw(concepts: Tensor, known: Tensor) -> Tensor:
    """For each object a random one of the batch with its class and a known embedding, if there is one."""
    flat, have = concepts.flatten(), known.flatten()
    chance = torch.rand(flat.shape, device=flat.device).masked_fill(~have, -1.0)
    same = flat[:, None] == flat[None]
    picked = chance.expand_as(same).masked_fill(~same, -2.0).max(1).indices if len(flat) else flat
    return picked.view_as(concepts)


def _first(concepts: Tensor, known: Tensor, within_photo: bool) -> Tensor:
    """Whether no known object of the same class stands before this one, in the photo or in the batch."""
    if not within_photo:
        return _first(concepts.view(1, -1), known.view(1, -1), True).view_as(known)
    same = (concepts[:, :, None] == concepts[:, None]) & known[:, None]
    return ~same.tril(-1).any(-1)


def _masked(teacher: Tensor, known: Tensor) -> Tensor:
    """Zeros where there is no embedding: what stands there may be NaN, and 0 * NaN is NaN."""
    return teacher.masked_fill(~known[..., None], 0.0)


def _single(x: Tensor) -> Tensor:
    """At least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
