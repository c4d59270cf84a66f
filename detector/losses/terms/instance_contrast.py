"""Instance contrast: regions of pairs against their crops, with queues of past pairs
(docs/method/hd_ovd.md, eq. 18).

Shape legend: L output layers, J regions of the pairs (masked), D width of the teacher.
"""

from __future__ import annotations

from torch import Tensor

from cckt.detector.config.terms import InstanceContrastConfig
from cckt.detector.losses.memory import Queue, finite_rows
from cckt.detector.losses.region_slots import Slots, slots_of
from cckt.detector.losses.similarity_losses import two_way_contrast
from cckt.detector.losses.terms.instance_term import LEAST, InstanceTerm
from cckt.detector.losses.terms.term import RunInputs, StepInputs


class InstanceContrast(InstanceTerm):
    """Contrast of the instance level."""

    name = "instance_contrast"
    options: InstanceContrastConfig

    def prepare(self, run: RunInputs) -> None:
        """Register a queue pair for each layer."""
        super().prepare(run)
        layers = run.layers if self.options.layers == "all" else 1
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
