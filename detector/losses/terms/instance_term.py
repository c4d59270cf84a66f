"""Base class of the terms of the instance level: regions of pairs and their crops."""

from __future__ import annotations

from cckt.detector.config.terms import TermConfig
from cckt.detector.losses.region_slots import CROP, PROPOSAL_CROP
from cckt.detector.losses.terms.term import RunInputs, Term

LEAST = 2
"""Pairs of a layer below which its loss is 0, and nothing enters its queues."""


class InstanceTerm(Term):
    """A mean over pairs of a region and its crop."""

    @classmethod
    def rows_of(cls, options: TermConfig, proposals: bool) -> tuple[str, ...]:
        """Crops of objects, of proposals, or both."""
        regions = getattr(options, "regions", "both")
        objects = (CROP,) if regions != "proposals" else ()
        return (*objects, PROPOSAL_CROP) if proposals and regions != "objects" else objects

    @property
    def normalised(self) -> bool:
        """A mean over pairs."""
        return True

    def prepare(self, run: RunInputs) -> None:
        """Note the number of distilled proposals."""
        self.proposals = run.proposals
