"""Text-space relation head: prototypes of classes and proposals, related as their texts
(docs/method/hd_ovd.md, eqs. 31 to 36).

Shape legend: L output layers, B images, K pairs, C base concepts, P distilled proposals of an image (padded),
J rows: C base concepts, then B P proposals (masked), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.terms import TextRelationConfig
from cckt.detector.losses.memory import Prototypes, finite_rows
from cckt.detector.losses.nouns import NounBank
from cckt.detector.losses.region_slots import gather_images, pair_overlap, slot_sums
from cckt.detector.losses.similarity_losses import mean_of_rows, relation_loss
from cckt.detector.losses.terms.noun_term import NounTerm
from cckt.detector.losses.terms.term import ONE_RANK, Ranks, RunInputs, StepInputs
from cckt.detector.students.contract import MASKED
from cckt.detector.students.precision import single

LEAST = 2
"""Present base concepts of a layer below which both losses are 0, and no prototype moves."""


@dataclass(frozen=True)
class Labels:
    """Labels of the proposals' rows: fields of a bank, flattened over images (with "world" of all ranks)."""

    column: Tensor
    right: Tensor
    weight: Tensor


class TextRelation(NounTerm):
    """Relation and contrast of the text-space relation head."""

    name = "text_relation"
    contrast_name = "text_contrast"
    options: TextRelationConfig

    @property
    def normalised(self) -> bool:
        """Means over rows."""
        return True

    def prepare(self, run: RunInputs) -> None:
        """Start the prototypes at the base texts."""
        super().prepare(run)
        options = self.options
        self.prototypes = Prototypes(
            run.layers, run.text, options.decay, options.ramp, options.counts == "class"
        )

    def needs_all_ranks(self, extra_regions: bool) -> bool:
        """Prototypes are means over ranks."""
        return True

    def forward(self, step: StepInputs) -> dict[str, Tensor]:
        """Return "text_relation" and "text_contrast", means over rows, summed over layers."""
        options, output = self.options, step.output
        assert output.relation is not None, "the student has no relation head"
        ranks = step.ranks if options.negatives == "world" else ONE_RANK
        head = single(output.relation)
        values, present = self._class_means(head, step, ranks)
        nouns = self.nouns(step)
        proposals, found = _proposal_rows(head, nouns, step)
        weight, text, label, right = (
            ranks.gather_rows(one) for one in (nouns.weight, nouns.own_text, nouns.label, nouns.right)
        )
        proposals, found = gather_images(proposals, ranks), gather_images(found, ranks)
        base = torch.where(present[..., None], values, self.prototypes.means)
        rows = F.normalize(torch.cat([base, proposals.flatten(1, 2)], 1), dim=-1, eps=1e-6)  # (L, J, D)
        texts = torch.cat([self.text, text.flatten(0, 1)])
        texts = texts.expand(len(rows), -1, -1)
        kept = torch.cat([torch.ones_like(present), found.flatten(1)], 1)
        enough = present.sum(1, keepdim=True) >= LEAST
        relation = relation_loss(rows, texts, kept & enough, options.scale, options.temperature)
        live = torch.cat([present, found.flatten(1)], 1) & enough
        labels = Labels(label.flatten(), right.flatten(0, 1), weight.flatten())
        contrast = self._contrast(rows, texts, live, found.flatten(1), labels)
        self._update(head, step, values, present)
        connected = head.sum() * 0.0
        return {
            self.name: options.weight * relation + connected,
            self.contrast_name: options.contrast_weight * contrast + connected,
        }

    def _class_means(self, head: Tensor, step: StepInputs, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Return the prototypes of this step (eq. 31), (L, C, D), and whether a class is present, (L, C)."""
        pairs, targets, concepts = step.pairs, step.targets, len(self.text)
        layer = torch.arange(len(head), device=head.device)[:, None]
        # The softmax of IoUs: they are at most 1, so their exponentials need no shift.
        share = pair_overlap(step.output.boxes, targets.boxes, pairs).exp()  # (L, K)
        chosen = head[layer, pairs.images, pairs.regions]
        place = layer * concepts + targets.concepts[pairs.images, pairs.objects]
        rows = torch.cat([chosen * share[..., None], share[..., None]], 2).flatten(0, 1)
        summed = rows.new_zeros((len(head) * concepts, rows.shape[1])).index_add(0, place.flatten(), rows)
        summed = ranks.gather_rows(summed[None]).sum(0).view(len(head), concepts, -1)
        total = summed[..., -1]
        return summed[..., :-1] / total.clamp(min=1e-9)[..., None], total.detach() > 0

    def _contrast(self, rows: Tensor, texts: Tensor, live: Tensor, found: Tensor, labels: Labels) -> Tensor:
        """Return the contrast of live rows with the texts of all rows (eq. 36), summed over layers.

        live: (L, J) bool; found: (L, J - C) bool, proposals that are rows. A column that stands for a
        repeated noun takes part if one of its proposals is a row.
        """
        concepts, device = len(self.text), rows.device
        nouns = (found[..., None] & labels.right).any(1)  # (L, J - C)
        columns = torch.cat([nouns.new_ones((len(rows), concepts)), nouns], 1)
        scores = self.options.contrast_scale * rows @ texts.transpose(1, 2)
        scores = scores.masked_fill(~columns[:, None], MASKED)
        own = torch.cat([torch.arange(concepts, device=device), labels.column])
        positive = scores.gather(2, own.expand(len(rows), -1)[..., None]).squeeze(-1)
        if self.options.repeated_nouns == "positives":
            among = scores[:, concepts:, concepts:].masked_fill(~labels.right, MASKED).logsumexp(-1)
            several = torch.where(labels.right.any(-1), among, positive[:, concepts:])
            positive = torch.cat([positive[:, :concepts], several], 1)
        omega = torch.cat([rows.new_ones(concepts), labels.weight])
        return mean_of_rows(omega * (scores.logsumexp(-1) - positive), live)

    @torch.no_grad()
    def _update(self, head: Tensor, step: StepInputs, values: Tensor, present: Tensor) -> None:
        """Move the prototypes by the means over all ranks (eq. 33)."""
        if self.options.negatives != "world":
            values, present = self._class_means(head.detach(), step, step.ranks)
        moving = present & (present.sum(1, keepdim=True) >= LEAST) & finite_rows(values)
        self.prototypes.update(values, moving)


def _proposal_rows(head: Tensor, nouns: NounBank, step: StepInputs) -> tuple[Tensor, Tensor]:
    """Return the mean embedding of each proposal's regions, (L, B, P, D), and whether it is a row."""
    images, count = nouns.known.shape
    pairs = step.pairs.proposals
    if pairs is None or not count:
        return head.new_zeros((len(head), images, count, head.shape[-1])), nouns.known.expand(
            len(head), -1, -1
        )
    layer = torch.arange(len(head), device=head.device)[:, None]
    chosen = head[layer, pairs.images, pairs.regions]
    rows = torch.cat([chosen, torch.ones_like(chosen[..., :1])], 2)
    summed = slot_sums(rows, pairs, images, count)
    number = summed[..., -1].detach()
    found = (number > 0) & nouns.known
    return summed[..., :-1] / number.clamp(min=1)[..., None] * found[..., None], found
