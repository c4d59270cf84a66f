"""Regions of the pairs, arranged by what they stand for: one slot per object or proposal of an image.

An object may have several regions; its slot is their mean. Slots have one shape on all ranks, whatever was
matched.

Shape legend: L layers, B images, N regions, K pairs, M objects and P distilled proposals of an image
(padded), S slots of an image, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.losses.terms.term import Ranks, StepInputs
from cckt.detector.students.boxes import paired_iou
from cckt.detector.students.contract import Pairs
from cckt.detector.students.precision import single
from cckt.detector.students.targets import PaddedTargets

CROP, PROPOSAL_CROP = "crop", "proposal_crop"
"""Names of the teacher rows of objects and of proposals."""


@dataclass(frozen=True)
class Slots:
    """Regions with their teacher rows."""

    region: Tensor
    """(L, B, S, D) unit; zeros where not `kept`."""
    teacher: Tensor
    """(B, S, D) unit; zeros where there is no embedding."""
    kept: Tensor
    """(L, B, S) bool: a region passed the gate and the teacher has an embedding."""

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (L, B S, D) regions, (L, B S, D) teacher rows and (L, B S) kept."""
        layers = len(self.region)
        teacher = self.teacher.flatten(0, 1).expand(layers, -1, -1)
        return self.region.flatten(1, 2), teacher, self.kept.flatten(1)

    def of_all_ranks(self, ranks: Ranks) -> Slots:
        """Return the slots of the images of all ranks."""
        return Slots(
            gather_images(self.region, ranks),
            ranks.gather_rows(self.teacher),
            gather_images(self.kept, ranks),
        )


def gather_images(values: Tensor, ranks: Ranks) -> Tensor:
    """(L, B, ...) -> (L, R B, ...): the images of all ranks."""
    return ranks.gather_rows(values.transpose(0, 1)).transpose(0, 1)


def proposal_count(targets: PaddedTargets, most: int) -> int:
    """Return P, the same on all ranks whose targets are padded alike.

    most: `data.proposals`; the distilled proposals of an image are its first ones.
    """
    return 0 if targets.proposals is None else min(most, targets.proposals.boxes.shape[1])


def slots_of(step: StepInputs, regions: str, gate: float, most: int, *, layers: str = "all") -> Slots:
    """Return the regions of the pairs with their crops (docs/method/hd_ovd.md, eqs. 16, 17 and 21).

    regions: "objects", "proposals" or "both". gate: a region counts if its IoU with its box is above it; 0
    keeps all. most: `data.proposals`. layers: "all", or "last".
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    output, targets = step.output, step.targets
    embeddings = chosen_layers(single(output.region), layers)
    boxes = chosen_layers(output.boxes, layers)
    if regions != "proposals":
        rows = targets.teacher[CROP]
        pairs = pairs_of_layers(step.pairs, layers)
        passed = gated(boxes, targets.boxes, pairs, gate)
        known = rows.valid & targets.real
        found.append((slot_means(embeddings, pairs, passed, known.shape[1]), rows.values, known))
    count = proposal_count(targets, most)
    if regions != "objects" and count and step.pairs.proposals is not None:
        assert targets.proposals is not None, "pairs of proposals without proposals"
        rows = targets.teacher[PROPOSAL_CROP]
        pairs = pairs_of_layers(step.pairs.proposals, layers)
        passed = gated(boxes, targets.proposals.boxes, pairs, gate)
        known = (rows.valid & targets.proposals.distilled)[:, :count]
        found.append((slot_means(embeddings, pairs, passed, count), rows.values[:, :count], known))
    if not found:
        empty = embeddings[:, :, :0]
        return Slots(empty, empty[0].detach(), empty.isfinite().all(-1))
    region = torch.cat([one for one, _, _ in found], 2)
    known = torch.cat([one for _, _, one in found], 1)
    teacher = torch.cat([one for _, one, _ in found], 1).to(region.dtype)
    kept = known & region.detach().any(-1)
    # Undefined teacher rows may be NaN, and 0 * NaN is NaN.
    return Slots(region * kept[..., None], teacher.masked_fill(~known[..., None], 0.0), kept)


def slot_means(embeddings: Tensor, pairs: Pairs, passed: Tensor, slots: int) -> Tensor:
    """Return the mean embedding of each slot's regions at unit length, zeros without a region, (L, B, S, D).

    embeddings: (L, B, N, D); passed: (L, K) bool, pairs that count.
    """
    layer = torch.arange(len(embeddings), device=embeddings.device)[:, None]
    chosen = embeddings[layer, pairs.images, pairs.regions] * passed[..., None]
    return F.normalize(slot_sums(chosen, pairs, embeddings.shape[1], slots), dim=-1, eps=1e-6)


def merged_regions(region: Tensor, pairs: Pairs, kept: Tensor, slots: int) -> tuple[Tensor, Pairs, Tensor]:
    """Return regions, pairs and kept with one region per object: the mean of its regions, at unit length.

    region: (1, B, N, D) unit; kept: (B, N) bool. Regions (1, B, S + N, D) are the means of the slots, then
    the regions that are in no pair; the others are not `kept`.
    """
    every = torch.ones_like(pairs.regions, dtype=torch.bool)
    means = slot_means(region, pairs, every, slots)
    images = region.shape[1]
    filled = torch.zeros((images, slots), dtype=torch.bool, device=region.device)
    filled = filled.index_put((pairs.images, pairs.objects[0]), every.new_ones(()))
    free = kept.index_put((pairs.images, pairs.regions[0]), every.new_zeros(()))
    image, slot = filled.nonzero(as_tuple=True)
    merged = Pairs(image, slot[None], slot[None])
    return torch.cat([means, region], 2), merged, torch.cat([filled, free], 1)


def slot_sums(values: Tensor, pairs: Pairs, images: int, slots: int) -> Tensor:
    """Return the sum over the pairs of each slot, (L, B, S, ...). values: (L, K, ...)."""
    layers, width = values.shape[0], values.shape[2:]
    layer = torch.arange(layers, device=values.device)[:, None]
    place = (layer * images + pairs.images) * slots + pairs.objects
    summed = values.new_zeros((layers * images * slots, *width))
    return summed.index_add(0, place.flatten(), values.flatten(0, 1)).view(layers, images, slots, *width)


def gated(boxes: Tensor, goals: Tensor, pairs: Pairs, gate: float) -> Tensor:
    """Return whether the IoU of each pair is above the gate, (L, K) bool; a gate of 0 passes all."""
    overlap = pair_overlap(boxes, goals, pairs)
    return overlap > gate if gate else torch.ones_like(overlap, dtype=torch.bool)


def pair_overlap(boxes: Tensor, goals: Tensor, pairs: Pairs) -> Tensor:
    """Return the IoU of each pair's region with its box, (L, K), without gradients.

    boxes: (L, B, N, 4) of the regions; goals: (B, S, 4).
    """
    layer = torch.arange(len(boxes), device=boxes.device)[:, None]
    found = boxes.detach()[layer, pairs.images, pairs.regions]
    return paired_iou(found.float(), goals[pairs.images, pairs.objects].float())


def chosen_layers(values: Tensor, layers: str) -> Tensor:
    """Return the values (L, ...) of "all" layers or of the "last" one."""
    return values[-1:] if layers == "last" else values


def pairs_of_layers(pairs: Pairs, layers: str) -> Pairs:
    """Return the pairs of "all" layers or of the "last" one."""
    if layers == "all":
        return pairs
    return replace(pairs, regions=pairs.regions[-1:], objects=pairs.objects[-1:])
