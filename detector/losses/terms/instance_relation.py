"""Instance relation: similarities among regions as among their crops (docs/method/hd_ovd.md, eq. 19)."""

from __future__ import annotations

from torch import Tensor

from cckt.detector.config.terms import InstanceRelationConfig
from cckt.detector.losses.region_slots import slots_of
from cckt.detector.losses.similarity_losses import relation_loss
from cckt.detector.losses.terms.instance_term import LEAST, InstanceTerm
from cckt.detector.losses.terms.term import StepInputs


class InstanceRelation(InstanceTerm):
    """Relation loss of the instance level; on the batch only, without a queue."""

    name = "instance_relation"
    options: InstanceRelationConfig

    def needs_all_ranks(self, extra_regions: bool) -> bool:
        """If regions are related to those of other ranks."""
        return self.options.negatives == "world"

    def forward(self, step: StepInputs) -> dict[str, Tensor]:
        """Return "instance_relation", a mean over pairs, summed over layers."""
        options = self.options
        slots = slots_of(step, options.regions, options.gate, self.proposals, layers=options.layers)
        connected = slots.region.sum() * 0.0
        if options.negatives == "world":
            slots = slots.of_all_ranks(step.ranks)
        region, teacher, kept = slots.flat()
        loss = relation_loss(region, teacher, kept, options.scale, options.temperature, LEAST)
        return {self.name: options.weight * loss + connected}
