"""The training objective: the student's detection losses plus the distillation terms
(docs/method/cckt_det.md, eq. 18).

CCKT-Det, HD-OVD and their hybrids are lists of terms: each term of the table with a weight above 0 takes
part, from its first epoch on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cckt.detector.config.config import Config
from cckt.detector.losses.terms.image_contrast import ImageContrast
from cckt.detector.losses.terms.instance_contrast import InstanceContrast
from cckt.detector.losses.terms.instance_relation import InstanceRelation
from cckt.detector.losses.terms.novel_aware_classes import NovelAwareClasses
from cckt.detector.losses.terms.region_contrast import RegionContrast
from cckt.detector.losses.terms.term import ONE_RANK, Ranks, RunInputs, StepInputs, Term
from cckt.detector.losses.terms.text_relation import TextRelation
from cckt.detector.students.contract import DetectionLoss, Pairs, StudentOutput
from cckt.detector.students.targets import PaddedTargets

TERMS: dict[str, type[Term]] = {
    "region_contrast": RegionContrast,
    "instance_contrast": InstanceContrast,
    "instance_relation": InstanceRelation,
    "novel_aware_classes": NovelAwareClasses,
    "text_relation": TextRelation,
    "image_contrast": ImageContrast,
}
"""Name of the section in `config/terms.py` -> the term."""


def terms_of(config: Config) -> dict[str, type[Term]]:
    """Return the terms with a weight above 0, in the order of the config."""
    return {name: TERMS[name] for name, options in config.terms.items() if options.weight > 0}


def needed_rows(config: Config) -> list[str]:
    """Return the names of the teacher rows that the terms of a config read, each once."""
    proposals = config.data.proposals > 0
    read = [term.rows_of(config.terms[name], proposals) for name, term in terms_of(config).items()]
    return list(dict.fromkeys(row for rows in read for row in rows))


def check_terms(config: Config) -> None:
    """Raise UserError for a term that is on and lacks a head of the student, or proposals."""
    for name, options in config.terms.items():
        if options.weight > 0:
            options.check_parts(f"terms.{name}", config.model, config.data.proposals)


def first_steps(config: Config, steps_per_epoch: int) -> set[int]:
    """Return the steps (counted from 0) at which a term starts."""
    return {config.terms[name].first_epoch * steps_per_epoch for name in terms_of(config)}


class Objective(nn.Module):
    """The sum of all losses. Its state is that of the terms.

    embedding_dim: D of the teacher. extra_regions: whether the student returns `ExtraRegions`. run: what
    terms know of the run; None suits terms that need nothing of it.
    """

    def __init__(
        self,
        config: Config,
        embedding_dim: int,
        *,
        extra_regions: bool = False,
        run: RunInputs | None = None,
    ) -> None:
        super().__init__()
        tau = config.model.tau
        built = {
            name: term(config.terms[name], tau, embedding_dim) for name, term in terms_of(config).items()
        }
        if run is not None:
            for term in built.values():
                term.prepare(run)
        self.terms = nn.ModuleDict(built)
        self.extra_regions = extra_regions

    def active(self, epoch: int) -> list[Term]:
        """Return the terms that take part in an epoch (counted from 0)."""
        return [term for term in self._terms() if epoch >= term.options.first_epoch]

    def trains_regions(self, epoch: int) -> bool:
        """Whether a term of the epoch trains the region embedding."""
        return any(term.trains_regions for term in self.active(epoch))

    def counted(self, targets: PaddedTargets, epoch: int, ranks: Ranks = ONE_RANK) -> dict[str, Tensor]:
        """Return, per term with its own divisor, the number of this rank's objects that it counts."""
        found = {term.name: term.counted(targets, ranks) for term in self.active(epoch)}
        return {name: count for name, count in found.items() if count is not None}

    def needs_all_ranks(self, epoch: int) -> bool:
        """Whether ranks must compute a term together, with targets padded to one shape."""
        return any(term.needs_all_ranks(self.extra_regions) for term in self.active(epoch))

    def forward(
        self,
        output: StudentOutput,
        pairs: Pairs,
        detection: DetectionLoss,
        targets: PaddedTargets,
        *,
        epoch: int,
        divisor: float | Tensor | None = None,
        counted: Mapping[str, Tensor] | None = None,
        parts: int = 1,
        ranks: Ranks = ONE_RANK,
    ) -> dict[str, Tensor]:
        """Return name -> loss, divided by the objects, and their sum "total", the only one with gradients.

        epoch: counted from 0. divisor: the objects of the global batch, at least 1, over the number of ranks,
        as DDP averages gradients (docs/method/cckt_det.md, eq. 18); None counts the objects of `targets`.
        counted: the same for the terms with their own divisor (`counted`). parts: accumulated
        parts of the step; losses that are means already are divided by them instead. ranks: the ranks that
        compute terms together. "total" has gradients, zero where they must be, for a batch without objects
        too.
        """
        count = max(1, targets.objects) if divisor is None else divisor
        losses, active = dict(detection.losses), self.active(epoch)
        if counted is None:
            counted = {name: one.clamp(min=1) for name, one in self.counted(targets, epoch, ranks).items()}
        step = StepInputs(output, pairs, detection, targets, ranks)
        with torch.autocast(output.boxes.device.type, enabled=False):
            auxiliary = dict(detection.auxiliary)
            means: dict[str, Tensor] = {}
            for term in self._terms():
                found = term(step) if term in active else {term.name: _zero(output)}
                if term.normalised:
                    means |= {name: value / parts for name, value in found.items()}
                    continue
                if term.name in counted:  # all of `found` is divided by `count` below
                    share = count / counted[term.name]
                    found = {name: value * share for name, value in found.items()}
                for name, value in found.items():
                    into = auxiliary if name in auxiliary else losses
                    into[name] = into[name] + value if name in into else value
            losses |= auxiliary
            means |= {name: value / parts for name, value in detection.means.items()}
            losses = {name: value / count for name, value in losses.items()} | means
            total = torch.stack(list(losses.values())).sum()
            if not active or _optional(output):
                total = total + _zero(output)
        return {"total": total} | {name: value.detach() for name, value in losses.items()}

    def _terms(self) -> list[Term]:
        return [term for term in self.terms.values() if isinstance(term, Term)]


def _zero(output: StudentOutput) -> Tensor:
    """Return 0 with zero gradients for whatever terms read: ranks need every parameter in the graph of every
    step."""
    return torch.stack([one.sum() for one in (output.region, *_optional(output))]).sum() * 0.0


def _optional(output: StudentOutput) -> list[Tensor]:
    """Return the outputs of heads that a term may leave out of a step."""
    found = (output.text_region, output.relation, output.background, output.image)
    return [one for one in found if one is not None]
