"""Regional contrastive distillation (METHOD.md section 5, eqs. 5 and 6), over one rank's photos or over all.

Shape legend: L decoder layers, B photos, N queries, M most objects of a photo (padded), K matched pairs,
D teacher width; R ranks, whose photos stand one rank after another in (R B, ...).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.config import Config, LossConfig
from cckt.detector.losses.matcher import Matches
from cckt.detector.students.contract import NEVER, PaddedTargets, Proposals


class Ranks(Protocol):
    """Those who contrast together; see `cckt.detector.ranks.world.World`."""

    @property
    def rank(self) -> int:
        """This one's number."""

    def gather_rows(self, rows: Tensor) -> Tensor:
        """(n, ...) -> (R n, ...): every rank's rows; what is asked of them has gradients on their ranks."""


class _Alone:
    rank = 0

    def gather_rows(self, rows: Tensor) -> Tensor:
        return rows


ALONE: Ranks = _Alone()
"""A batch that no other rank has a part of."""


def spans_the_batch(config: Config) -> bool:
    """Whether the contrast of a photo hears of the batch's others, so that ranks must contrast together."""
    widened = config.loss.negatives == "batch" or config.loss.teacher_bank == "class"
    return config.loss.loss_contrast > 0 and (widened or config.model.reference == "guided")


def contrastive_loss(
    region: Tensor,
    targets: PaddedTargets,
    matches: Matches,
    config: LossConfig,
    bank: Tensor | None = None,
    *,
    asked: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Half of both ways, summed over layers and this rank's objects.

    region: (L, B, N, D) unit. Objects without a teacher embedding are neither rows nor candidates. An object
    that got no query (more objects than queries) is a candidate only. The caller divides by the objects.

    With negatives="batch" the candidates are those of the batch. asked: (B, N) bool, False where no query
    stands, and so no candidate; None: nowhere. ranks: whose batch it is, all of which call this with tensors
    of the same shapes; the sum over them is then that of one with all photos.

    With teacher_bank="class" an object's teacher is its class's crop: `bank` (C, D) unit, NaN rows have none;
    None draws one from the batch. Several matched queries of a class are then all positives of it, each with
    its share: the mean over them of -log softmax, once for each object. Towards the teacher every class is
    one candidate.
    """
    if config.negatives == "image" and config.teacher_bank == "instance":
        ranks = ALONE  # a photo hears of no other
    layers, photos, queries, _ = region.shape
    objects = targets.boxes.shape[1]
    first = ranks.rank * photos
    crops = _teacher(targets, config, bank, region.dtype, ranks)  # of R B photos
    teacher = crops.embeddings[first : first + photos]
    images, chosen = matches.images, matches.queries
    layer = torch.arange(layers, device=region.device)[:, None]
    if config.negatives == "image":
        # scores[l, b, i, j] = r_i . e_j / tau within photo b
        scores = torch.einsum("bmd,lbnd->lbmn", teacher, region) / config.tau
        per_pair = scores[:, images]  # (L, K, M, N)
        pair = torch.arange(len(images), device=region.device)[None]
        own = per_pair[layer, pair, matches.objects, chosen]
        to_student = scores.logsumexp(-1)[layer, images, matches.objects]
        columns = per_pair[layer, pair, :, chosen]  # (L, K, M)
        away = ~crops.candidate[first:][images]
    else:
        flat = region.flatten(1, 2)  # (L, B N, D)
        every = ranks.gather_rows(flat.transpose(0, 1)).transpose(0, 1)
        scores = torch.einsum("md,lnd->lmn", teacher.flatten(0, 1), every) / config.tau  # (L, B M, R B N)
        if asked is not None:
            scores = scores.masked_fill(~ranks.gather_rows(asked).flatten(), NEVER)
        row, column = images * objects + matches.objects, images * queries + chosen
        own = scores[layer, row, first * queries + column]
        to_student = scores.logsumexp(-1)[layer, row]
        if ranks is ALONE:
            columns = scores[layer, :, column]  # (L, K, B M)
        else:
            mine = flat[layer, column]  # (L, K, D)
            columns = torch.einsum("md,lkd->lkm", crops.embeddings.flatten(0, 1), mine) / config.tau
        away = ~crops.candidate.flatten().expand(len(images), -1)
    # An invalid pair has weight 0; its logsumexp must be finite all the same, or the gradient is NaN.
    used = crops.known[first:][images, matches.objects]
    to_teacher = columns.masked_fill(away, NEVER).logsumexp(-1)
    return ((to_student - own + to_teacher - own) * used).sum() / 2


def contrast_of_cells(
    proposals: Proposals,
    targets: PaddedTargets,
    matches: Matches,
    config: LossConfig,
    bank: Tensor | None = None,
    *,
    ranks: Ranks = ALONE,
) -> Tensor:
    """The same of the cells that words chose among: those matched are contrasted with one another, whichever
    photo they are of, and no other cell is a candidate.
    """
    assert proposals.region is not None
    region = proposals.region[matches.images, matches.queries[0]]  # (K, D)
    at = (matches.images, matches.objects[0])
    count = len(region)
    # Ranks have as many places, of which they fill as many as they have matched.
    places = count if ranks is ALONE else targets.boxes.shape[0] * targets.boxes.shape[1]
    fill = places - count

    def placed(rows: Tensor) -> Tensor:
        return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, fill))[None]

    cells = replace(targets.each(lambda rows: placed(rows[at])), counts=(count,))
    number = torch.arange(count, device=region.device)
    pairs = Matches(torch.zeros_like(number), number[None], number[None])
    asked = None if ranks is ALONE else (torch.arange(places, device=region.device) < count)[None]
    together = replace(config, negatives="batch")
    return contrastive_loss(placed(region)[None], cells, pairs, together, bank, asked=asked, ranks=ranks)


@dataclass(frozen=True)
class _Crops:
    """The teacher's side, of all ranks' photos: each object's unit embedding, zeros where it has none."""

    embeddings: Tensor
    """(R B, M, D)."""
    known: Tensor
    """(R B, M) bool: it has one."""
    candidate: Tensor
    """(R B, M) bool: queries are contrasted with it."""


def _teacher(
    targets: PaddedTargets, config: LossConfig, bank: Tensor | None, dtype: torch.dtype, ranks: Ranks
) -> _Crops:
    teacher, known = (
        ranks.gather_rows(targets.embeddings.to(dtype)),
        ranks.gather_rows(targets.valid & targets.real),
    )
    if config.teacher_bank == "instance":
        return _Crops(_masked(teacher, known), known, known)
    concepts, real = ranks.gather_rows(targets.concepts), ranks.gather_rows(targets.real)
    if bank is None:
        chance = ranks.gather_rows(torch.rand(targets.concepts.shape, device=known.device))
        drawn = _draw(concepts, known, chance)  # (R B, M): a flat object number of the same class
        teacher = teacher.flatten(0, 1)[drawn]
        known = known.flatten()[drawn] & real
    else:
        teacher = bank.to(dtype)[concepts]
        known = teacher.isfinite().all(-1) & real
    candidate = known & _first(concepts, known, within_photo=config.negatives == "image")
    return _Crops(_masked(teacher, known), known, candidate)


def _draw(concepts: Tensor, known: Tensor, chance: Tensor) -> Tensor:
    """For each object the luckiest of its class that has an embedding, if there is one."""
    flat, have = concepts.flatten(), known.flatten()
    luck = chance.flatten().masked_fill(~have, -1.0)
    same = flat[:, None] == flat[None]
    picked = luck.expand_as(same).masked_fill(~same, -2.0).max(1).indices if len(flat) else flat
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
