"""Regional contrastive distillation: regions against teacher crops (docs/method/cckt_det.md, eqs. 19 to 22).

Shape legend: L output layers, B images, N regions, M most objects of an image (padded), K pairs, D width of
the teacher; R ranks, whose images are concatenated rank by rank in (R B, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.terms import RegionContrastConfig, TermConfig
from cckt.detector.losses.region_slots import CROP, PROPOSAL_CROP, merged_regions
from cckt.detector.losses.terms.term import ONE_RANK, Ranks, RunInputs, StepInputs, Term
from cckt.detector.students.contract import MASKED, ExtraRegions, Pairs
from cckt.detector.students.precision import single
from cckt.detector.students.targets import PaddedTargets


class RegionContrast(Term):
    """CCKT-Det's distillation term."""

    name = "contrast"
    needs = (CROP,)
    options: RegionContrastConfig
    class_crops: Callable[[int], tuple[Tensor, Tensor]] | None = None

    @classmethod
    def rows_of(cls, options: TermConfig, proposals: bool) -> tuple[str, ...]:
        """Crops of objects and, if asked for, of proposals."""
        more = isinstance(options, RegionContrastConfig) and options.proposals
        return (CROP, PROPOSAL_CROP) if more else (CROP,)

    def needs_all_ranks(self, extra_regions: bool) -> bool:
        """With negatives or crops from the batch, or for extra regions, whose negatives are the batch's."""
        return self.options.negatives == "batch" or self.options.teacher_bank == "class" or extra_regions

    def prepare(self, run: RunInputs) -> None:
        """Keep the source of cached crops."""
        self.class_crops = run.class_crops

    def counted(self, targets: PaddedTargets, ranks: Ranks) -> Tensor | None:
        """The objects with a teacher embedding: their own, or one of their class in the bank."""
        if self.options.divisor == "objects":
            return None
        objects = Objects.of(targets)
        with_crop = objects.valid & objects.real
        if self.options.teacher_bank == "class":
            first, images = ranks.rank * len(with_crop), len(with_crop)
            concepts, known = ranks.gather_rows(objects.concepts), ranks.gather_rows(with_crop)
            same = _same_class(concepts.flatten()) & known.flatten()
            with_crop = same.any(-1).view_as(concepts)[first : first + images] & objects.real
        if self.options.teacher_bank == "cache":
            with_crop = self._bank(0, objects)[1][objects.concepts] & objects.real
        return with_crop.sum().float()

    def _bank(self, seed: int, objects: Objects) -> tuple[Tensor, Tensor]:
        """Return the crops of every class, (C, D) and (C,), on the device of the objects."""
        assert self.class_crops is not None, "teacher_bank=cache needs the crops of a run, found none"
        values, known = self.class_crops(seed)
        device = objects.embeddings.device
        return values.to(device, non_blocking=True), known.to(device, non_blocking=True)

    def forward(self, step: StepInputs) -> dict[str, Tensor]:
        """Return "contrast", and an addition to the loss of each set of extra regions."""
        objects, weight = Objects.of(step.targets), self.options.weight
        pairs, more = step.pairs, 0
        if self.options.proposals:
            objects, more = objects.with_proposals(step.targets), objects.concepts.shape[1]
            pairs = with_proposals(pairs, more)
        region, kept = single(step.output.region), step.output.kept
        if kept is not None and len(region) == 1:  # RoIs: an object may have several
            region, pairs, kept = merged_regions(region, pairs, kept, objects.concepts.shape[1])
        bank = None
        if self.options.teacher_bank == "cache":
            bank = self._bank(int(torch.randint(2**31, ())), objects)
        options, tau = self.options, self.tau
        own = contrastive_loss(region, objects, pairs, options, tau, kept=kept, ranks=step.ranks, bank=bank)
        losses = {self.name: weight * own}
        for extra in step.detection.extra:
            if self.options.proposals:
                extra = replace(extra, pairs=with_proposals(extra.pairs, more))
            value = contrast_of_matched(extra, objects, options, tau, ranks=step.ranks, bank=bank)
            losses[extra.name] = extra.weight * (weight * value)
        return losses


@dataclass(frozen=True)
class Objects:
    """What the contrast reads of the objects of a batch, padded."""

    concepts: Tensor
    """(B, M) int64."""
    real: Tensor
    """(B, M) bool: an object, not padding."""
    embeddings: Tensor
    """(B, M, D) unit teacher embeddings; undefined where not `valid`."""
    valid: Tensor
    """(B, M) bool: the object has a teacher embedding."""

    @staticmethod
    def of(targets: PaddedTargets) -> Objects:
        """Of targets with rows of crops."""
        rows = targets.teacher[CROP]
        return Objects(targets.concepts, targets.real, rows.values, rows.valid)

    def with_proposals(self, targets: PaddedTargets) -> Objects:
        """Append the distilled proposals of every image, each an object of a class of its own.

        Its class is the number -1, which equals nothing (`_same_class`).
        """
        if targets.proposals is None:
            return self
        rows, distilled = targets.teacher[PROPOSAL_CROP], targets.proposals.distilled
        return Objects(
            torch.cat([self.concepts, torch.full_like(distilled, -1, dtype=torch.int64)], 1),
            torch.cat([self.real, distilled], 1),
            torch.cat([self.embeddings, rows.values.to(self.embeddings.dtype)], 1),
            torch.cat([self.valid, rows.valid & distilled], 1),
        )


def with_proposals(pairs: Pairs, objects: int) -> Pairs:
    """Append the pairs with proposals, which are numbered from `objects` on."""
    more = pairs.proposals
    if more is None:
        return pairs
    return Pairs(
        torch.cat([pairs.images, more.images]),
        torch.cat([pairs.regions, more.regions], 1),
        torch.cat([pairs.objects, more.objects + objects], 1),
    )


def contrastive_loss(
    region: Tensor,
    objects: Objects,
    pairs: Pairs,
    options: RegionContrastConfig,
    tau: float,
    *,
    kept: Tensor | None = None,
    ranks: Ranks = ONE_RANK,
    bank: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the mean of both directions (eq. 21), summed over layers and this rank's objects.

    region: (L, B, N, D) unit. Objects without a teacher embedding are neither rows nor candidates. An object
    without a pair (more objects than regions) is only a candidate. The caller divides by the objects.

    With negatives="batch" the candidates are those of the batch. kept: (B, N) bool, False at padding of the
    regions, which is no candidate; None: no padding. ranks: all of them call this with tensors of the same
    shapes; the sum over ranks then equals that of one rank with all images.

    With teacher_bank="class" the teacher of an object is a crop of its class, drawn from the batch (eq. 22).
    The regions of all pairs of a class are then its positives, with equal shares: the mean over them of -log
    softmax, once per object. Towards the teacher every class is one candidate.

    With teacher_bank="cache" it is the crop of its class in `bank`: embeddings (C, D), and whether the class
    has one, (C,). Towards the teacher all classes of the bank are candidates.
    """
    if options.negatives == "image" and options.teacher_bank != "class":
        ranks = ONE_RANK  # images are independent
    layers, images, regions, _ = region.shape
    most = objects.concepts.shape[1]
    first = ranks.rank * images
    if bank is None:
        crops = _crops(objects, options, region.dtype, ranks)  # of R B images
    else:
        crops, first = _crops_of_bank(objects, bank, region.dtype), 0  # of B images
    teacher = crops.embeddings[first : first + images]
    own_rank = ranks.rank * images
    chosen = pairs.regions
    layer = torch.arange(layers, device=region.device)[:, None]
    if options.negatives == "image":
        # scores[l, b, i, j] = r_i . e_j / tau within image b
        scores = torch.einsum("bmd,lbnd->lbmn", teacher, region) / tau
        if kept is not None:
            scores = scores.masked_fill(~kept[:, None], MASKED)
        per_pair = scores[:, pairs.images]  # (L, K, M, N)
        pair = torch.arange(len(pairs.images), device=region.device)[None]
        own = per_pair[layer, pair, pairs.objects, chosen]
        to_student = scores.logsumexp(-1)[layer, pairs.images, pairs.objects]
        columns = per_pair[layer, pair, :, chosen]  # (L, K, M)
        excluded = ~crops.candidate[first:][pairs.images]
    else:
        flat = region.flatten(1, 2)  # (L, B N, D)
        every = ranks.gather_rows(flat.transpose(0, 1)).transpose(0, 1)
        scores = torch.einsum("md,lnd->lmn", teacher.flatten(0, 1), every) / tau  # (L, B M, R B N)
        if kept is not None:
            scores = scores.masked_fill(~ranks.gather_rows(kept).flatten(), MASKED)
        row, column = pairs.images * most + pairs.objects, pairs.images * regions + chosen
        own = scores[layer, row, own_rank * regions + column]
        to_student = scores.logsumexp(-1)[layer, row]
        if bank is not None:
            columns = scores[:, :0]  # those of the bank follow
        elif ranks is ONE_RANK:
            columns = scores[layer, :, column]  # (L, K, B M)
        else:
            matched = flat[layer, column]  # (L, K, D)
            columns = torch.einsum("md,lkd->lkm", crops.embeddings.flatten(0, 1), matched) / tau
        excluded = ~crops.candidate.flatten().expand(len(pairs.images), -1)
    if bank is not None:
        matched = region[layer, pairs.images, chosen]  # (L, K, D)
        columns = torch.einsum("cd,lkd->lkc", _masked(*bank).to(matched.dtype), matched) / tau
        excluded = ~bank[1].expand(len(pairs.images), -1)
    # A pair without a teacher embedding has weight 0, but its logsumexp must be finite, or the gradient is
    # NaN.
    used = crops.known[first:][pairs.images, pairs.objects]
    to_teacher = columns.masked_fill(excluded, MASKED).logsumexp(-1)
    return ((to_student - own + to_teacher - own) * used).sum() / 2


def contrast_of_matched(
    extra: ExtraRegions,
    objects: Objects,
    options: RegionContrastConfig,
    tau: float,
    *,
    ranks: Ranks = ONE_RANK,
    bank: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the contrast of extra regions: those in a pair are candidates for each other, over the whole
    batch."""
    pairs = extra.pairs
    region = extra.region[pairs.images, pairs.regions[0]]  # (K, D)
    at = (pairs.images, pairs.objects[0])
    count = len(region)
    # All ranks need one shape: as many rows as there may be objects.
    rows = count if ranks is ONE_RANK else objects.concepts.shape[0] * objects.concepts.shape[1]

    def padded(values: Tensor) -> Tensor:
        return F.pad(values, (0, 0) * (values.dim() - 1) + (0, rows - count))[None]

    matched = Objects(
        padded(objects.concepts[at]),
        padded(objects.real[at]),
        padded(objects.embeddings[at]),
        padded(objects.valid[at]),
    )
    number = torch.arange(count, device=region.device)
    own = Pairs(torch.zeros_like(number), number[None], number[None])
    kept = None if ranks is ONE_RANK else (torch.arange(rows, device=region.device) < count)[None]
    over_batch = replace(options, negatives="batch")
    row = padded(region)[None]
    return contrastive_loss(row, matched, own, over_batch, tau, kept=kept, ranks=ranks, bank=bank)


@dataclass(frozen=True)
class _Crops:
    """The teacher's side, for the images of all ranks: a unit embedding per object, zeros where it has
    none."""

    embeddings: Tensor
    """(R B, M, D)."""
    known: Tensor
    """(R B, M) bool: the object has an embedding."""
    candidate: Tensor
    """(R B, M) bool: regions are contrasted with it."""


def _crops(objects: Objects, options: RegionContrastConfig, dtype: torch.dtype, ranks: Ranks) -> _Crops:
    teacher, known = (
        ranks.gather_rows(objects.embeddings.to(dtype)),
        ranks.gather_rows(objects.valid & objects.real),
    )
    if options.teacher_bank == "instance":
        return _Crops(_masked(teacher, known), known, known)
    concepts, real = ranks.gather_rows(objects.concepts), ranks.gather_rows(objects.real)
    chance = ranks.gather_rows(torch.rand(objects.concepts.shape, device=known.device))
    drawn = _draw(concepts, known, chance)  # (R B, M): a flat number of an object of the same class
    teacher = teacher.flatten(0, 1)[drawn]
    known = known.flatten()[drawn] & real
    candidate = known & _first(concepts, known, within_image=options.negatives == "image")
    return _Crops(_masked(teacher, known), known, candidate)


def _crops_of_bank(objects: Objects, bank: tuple[Tensor, Tensor], dtype: torch.dtype) -> _Crops:
    """Return the crops of the objects' classes, for the images of this rank."""
    embeddings, known = bank
    found = known[objects.concepts] & objects.real
    return _Crops(_masked(embeddings.to(dtype)[objects.concepts], found), found, found)


def _draw(concepts: Tensor, known: Tensor, chance: Tensor) -> Tensor:
    """Return, per object, the object of its class with the highest chance that has an embedding, if there is
    one."""
    flat, have = concepts.flatten(), known.flatten()
    luck = chance.flatten().masked_fill(~have, -1.0)
    same = _same_class(flat)
    picked = luck.expand_as(same).masked_fill(~same, -2.0).max(1).indices if len(flat) else flat
    return picked.view_as(concepts)


def _same_class(concepts: Tensor) -> Tensor:
    """Return which of (..., M) classes are equal, (..., M, M) bool; -1 only equals itself."""
    same = concepts[..., :, None] == concepts[..., None, :]
    itself = torch.eye(concepts.shape[-1], dtype=torch.bool, device=concepts.device)
    return same & ((concepts >= 0)[..., None] | itself)


def _first(concepts: Tensor, known: Tensor, within_image: bool) -> Tensor:
    """Return whether the object is the first known one of its class, in its image or in the batch."""
    if not within_image:
        return _first(concepts.view(1, -1), known.view(1, -1), True).view_as(known)
    same = _same_class(concepts) & known[:, None]
    return ~same.tril(-1).any(-1)


def _masked(teacher: Tensor, known: Tensor) -> Tensor:
    """Return zeros where there is no embedding: undefined values may be NaN, and 0 * NaN is NaN."""
    return teacher.masked_fill(~known[..., None], 0.0)
