"""Novel-aware classification: base texts, the nouns of the batch, and a learned background
(docs/method/hd_ovd.md, eqs. 22 to 28).

Shape legend: L output layers, B images, N regions, K pairs, M objects and P distilled proposals of an image
(padded), C base concepts, U nouns, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.terms import NovelAwareClassesConfig
from cckt.detector.losses.nouns import NounBank
from cckt.detector.losses.region_slots import pair_overlap, proposal_count
from cckt.detector.losses.terms.noun_term import NounTerm
from cckt.detector.losses.terms.term import RunInputs, StepInputs
from cckt.detector.students.boxes import paired_iou
from cckt.detector.students.contract import MASKED, Pairs
from cckt.detector.students.precision import single


class NovelAwareClasses(NounTerm):
    """Classification of the class level."""

    name = "novel_aware_classes"
    options: NovelAwareClassesConfig
    seen: Tensor
    """(C,) int64, images of the run so far that showed each base concept, over all ranks."""

    @property
    def normalised(self) -> bool:
        """With divisor "regions" a mean over regions."""
        return self.options.divisor == "regions"

    def prepare(self, run: RunInputs) -> None:
        """Count the images that showed each base concept."""
        super().prepare(run)
        self.register_buffer(
            "seen", torch.zeros(len(run.text), dtype=torch.int64), persistent=self.options.bank > 0
        )

    def needs_all_ranks(self, extra_regions: bool) -> bool:
        """With nouns of all ranks, or concepts seen by all of them."""
        return self.options.negatives == "world" or self.options.bank > 0

    def forward(self, step: StepInputs) -> dict[str, Tensor]:
        """Return "novel_aware_classes", summed over layers and regions."""
        options, output, targets = self.options, step.output, step.targets
        assert output.text_region is not None, "the student has no text projector"
        assert output.background is not None, "the student has no background"
        nouns = self.nouns(step)
        region = single(output.text_region)  # (L, B, N, D)
        background = F.normalize(single(output.background), dim=0, eps=1e-6)
        bank = torch.cat([self.text, nouns.text.to(self.text.dtype), background[None]])
        kept = self._kept(step, nouns)  # (B, C + U + 1)
        logits = options.scale * region @ bank.t()
        logits = logits.masked_fill(~kept[:, None], MASKED)
        normaliser = logits.logsumexp(-1)  # (L, B, N)
        weight = background_weights(step, options, self.proposals)
        total = (weight * (normaliser - logits[..., -1])).sum((1, 2))
        count = (weight > 0).sum((1, 2))
        layer = torch.arange(len(logits), device=logits.device)[:, None]

        def add(pairs: Pairs, own: Tensor, omega: Tensor) -> None:
            nonlocal total, count
            missing = normaliser[layer, pairs.images, pairs.regions] - own
            total = total + (omega * missing).sum(1)
            count = count + (omega > 0).sum(1)

        pairs = step.pairs
        labels = targets.concepts[pairs.images, pairs.objects]
        near = passed(pair_overlap(output.boxes, targets.boxes, pairs), options.gate)
        add(pairs, logits[layer, pairs.images, pairs.regions, labels], near.to(logits.dtype))
        if pairs.proposals is not None and targets.proposals is not None and nouns.weight.shape[1]:
            pairs = pairs.proposals
            near = passed(pair_overlap(output.boxes, targets.proposals.boxes, pairs), options.gate)
            omega = near * nouns.weight[pairs.images, pairs.objects]
            scores = logits[layer, pairs.images, pairs.regions]  # (L, K, C + U + 1)
            add(pairs, self._own(scores, nouns, pairs), omega)
        if options.divisor == "regions":
            total = total / self._regions(count, step).clamp(min=1)
        connected = (region.sum() + background.sum()) * 0.0
        return {self.name: options.weight * total.sum() + connected}

    def _own(self, scores: Tensor, nouns: NounBank, pairs: Pairs) -> Tensor:
        """Return the logit of each proposal's label, (L, K); of several right columns, the log of their
        sum."""
        at = (pairs.images, pairs.objects)
        own = scores.gather(2, nouns.label[at][..., None]).squeeze(-1)
        if self.options.repeated_nouns != "positives":
            return own
        among = scores[..., len(self.text) : -1]
        right = nouns.right[at]
        several = among.masked_fill(~right, MASKED).logsumexp(-1)
        return torch.where(right.any(-1), several, own)

    def _regions(self, count: Tensor, step: StepInputs) -> Tensor:
        """Return the number of regions of weight above 0 of each layer, with "world" a mean over ranks."""
        if self.options.negatives != "world":
            return count
        return step.ranks.gather_rows(count[None]).to(torch.float32).mean(0)

    def _kept(self, step: StepInputs, nouns: NounBank) -> Tensor:
        """Return the columns that take part for each image, (B, C + U + 1) bool."""
        images = len(nouns.live)
        always = nouns.live.new_ones((images, 1))
        if not self.options.bank:
            return torch.cat([always.expand(-1, len(self.text)), nouns.live, always], 1)
        present = self._present(step, nouns)
        self.seen.add_(step.ranks.gather_rows(present).sum(0))
        noise = -torch.log(-torch.log(torch.rand(present.shape, device=present.device).clamp(1e-9, 1 - 1e-7)))
        # The largest of log weight + Gumbel noise are a draw without replacement in proportion to weights.
        score = (noise + 0.5 * self.seen.clamp(min=1).log()).masked_fill(present, torch.inf)
        chosen = score.topk(min(self.options.bank, len(self.text)), 1).indices
        base = present.scatter(1, chosen, True)
        return torch.cat([base, nouns.live, always], 1)

    def _present(self, step: StepInputs, nouns: NounBank) -> Tensor:
        """Return the base concepts of each image's objects, and of nouns merged into them, (B, C) bool."""
        targets = step.targets
        counts = torch.zeros((len(nouns.live), len(self.text)), device=self.text.device)
        counts = counts.scatter_add(1, targets.concepts, targets.real.to(counts.dtype))
        if nouns.label.shape[1]:
            merged = (nouns.label < len(self.text)) & (nouns.weight > 0)
            own = nouns.label.clamp(max=len(self.text) - 1)
            counts = counts.scatter_add(1, own, merged.to(counts.dtype))
        return counts > 0


def passed(overlap: Tensor, gate: float) -> Tensor:
    """Return whether an IoU is at least the gate (eq. 25); a gate of 0 passes all."""
    return overlap >= gate


def background_weights(step: StepInputs, options: NovelAwareClassesConfig, most: int) -> Tensor:
    """Return the weight of every region as background (eq. 25), (L, B, N): 0 in a pair or near a box."""
    boxes, targets = step.output.boxes.detach().float(), step.targets
    weight = boxes.new_full(boxes.shape[:3], options.background_weight)
    goals, real = [targets.boxes.float()], [targets.real]
    if targets.proposals is not None:
        every = options.background_avoids == "all"
        count = targets.proposals.boxes.shape[1] if every else proposal_count(targets, most)
        goals.append(targets.proposals.boxes[:, :count].float())
        real.append((targets.proposals.real if every else targets.proposals.distilled)[:, :count])
    goal, known = torch.cat(goals, 1), torch.cat(real, 1)
    if goal.shape[1] and options.background_gate < 1:
        overlap = paired_iou(boxes[:, :, :, None], goal[None, :, None])
        weight = weight * ((overlap * known[None, :, None]).amax(-1) <= options.background_gate)
    layer = torch.arange(len(boxes), device=boxes.device)[:, None]
    for pairs in (step.pairs, step.pairs.proposals):
        if pairs is not None:
            weight = weight.index_put(
                (layer, pairs.images.expand_as(pairs.regions), pairs.regions), weight.new_zeros(())
            )
    return weight if step.output.kept is None else weight * step.output.kept
