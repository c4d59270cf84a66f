"""Instance contrast: regions of pairs against their crops, with queues of past pairs
(docs/method/hd_ovd.md, eq. 18).

Shape legend: L output layers, J regions of the pairs (masked), D width of the teacher.
"""

from __future__ import annotations

from torch import Tensor

from cckt.detector.config.terms import InstanceContrastConfig, TermConfig
from cckt.detector.losses.memory import Queue, finite_rows
from cckt.detector.losses.region_slots import CROP, PROPOSAL_CROP, Slots, slots_of
from cckt.detector.losses.similarity_losses import two_way_contrast
from cckt.detector.losses.terms.term import RunInputs, StepInputs, Term

LEAST = 2
"""Pairs of a layer below which its loss is 0, and nothing enters its queues."""


def instance_rows(options: TermConfig, proposals: bool) -> tuple[str, ...]:
    """Return the crops that a term of the instance level reads."""
    regions = getattr(options, "regions", "both")
    objects = (CROP,) if regions != "proposals" else ()
    return (*objects, PROPOSAL_CROP) if proposals and regions != "objects" else objects


class InstanceContrast(Term):
    """Contrast of the instance level."""

    name = "instance_contrast"
    options: InstanceContrastConfig

    @classmethod
    def rows_of(cls, options: TermConfig, proposals: bool) -> tuple[str, ...]:
        """Crops of objects, of proposals, or both."""
        return instance_rows(options, proposals)

    @property
    def normalised(self) -> bool:
        """A mean over pairs."""
        return True

    def prepare(self, run: RunInputs) -> None:
        """Register a queue pair for each layer."""
        layers = run.layers if self.options.layers == "all" else 1
        self.proposals = run.proposals
        self.students = Queue(layers, self.options.queue, self.embedding_dim)
        self.teachers = Queue(layers, self.options.queue, self.embedding_dim)

    def needs_all_ranks(self, extra_regions: bool) -> bool:
        """Queues hold the pairs of all ranks."""
        return True

    def forward(self, step: StepInputs) -> dict[str, Tensor]:
        """Return "instance_contrast", a mean over pairs, summed over layers."""
        options = self.options
        own = slots_of(step, options.regions, options.gate, self.proposals, layers=options.layers)
        wide = own if options.negatives == "rank" else own.of_all_ranks(step.ranks)
        region, teacher, kept = wide.flat()
        loss = two_way_contrast(region, teacher, kept, (self.students, self.teachers), options.scale, LEAST)
        self._remember(own if options.negatives == "rank" else wide, step)
        return {self.name: options.weight * loss + own.region.sum() * 0.0}

    def _remember(self, slots: Slots, step: StepInputs) -> None:
        """Push the pairs of all ranks; those of too few do not enter."""
        region, teacher, kept = slots.flat()
        entering = kept & (kept.sum(1, keepdim=True) >= LEAST)
        entering = (entering & finite_rows(region.detach())).view_as(slots.kept)
        every = Slots(slots.region.detach(), slots.teacher, entering)
        if self.options.negatives == "rank":
            every = every.of_all_ranks(step.ranks)
        region, teacher, kept = every.flat()
        self.students.push(region, kept)
        self.teachers.push(teacher, kept)
