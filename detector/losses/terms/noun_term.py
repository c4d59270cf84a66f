"""Base class of the terms of the class level: base texts, and the nouns of proposals."""

from __future__ import annotations

from torch import Tensor

from cckt.detector.config.terms import NovelAwareClassesConfig, TermConfig, TextRelationConfig
from cckt.detector.losses.nouns import NOUN, NounBank, WeightConstants, nouns_of
from cckt.detector.losses.region_slots import PROPOSAL_CROP
from cckt.detector.losses.terms.term import RunInputs, StepInputs, Term


class NounTerm(Term):
    """A term over base texts and nouns."""

    options: NovelAwareClassesConfig | TextRelationConfig
    text: Tensor
    """(C, D) unit base texts."""

    @classmethod
    def rows_of(cls, options: TermConfig, proposals: bool) -> tuple[str, ...]:
        """Nouns and, for their weights, crops of proposals."""
        return (NOUN, PROPOSAL_CROP) if proposals else ()

    def prepare(self, run: RunInputs) -> None:
        """Keep the base texts, and the constants of the nouns' weights."""
        self.proposals = run.proposals
        self.constants = WeightConstants.of(self.options, run.recipes)
        self.register_buffer("text", run.text.detach().float().clone(), persistent=False)

    def nouns(self, step: StepInputs) -> NounBank:
        """Return the nouns of the step's proposals, as the options choose and merge them."""
        return nouns_of(
            step.targets,
            self.options,
            self.constants,
            len(self.text),
            self.proposals,
            self.options.negatives,
            step.ranks,
            self.text.shape[1],
        )
