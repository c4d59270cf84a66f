"""Base class of the distillation terms.

A term is a module with its own section of options (`config/terms.py`). It sees the student's output, the
pairs, the targets with their teacher rows, and nothing else. What it remembers from step to step (queues,
prototypes) is a registered buffer: checkpoints save it, a resumed run restores it to the bit, and ranks start
from the same values. A term that updates a buffer must do so equally on all ranks: `ranks` gathers the rows
of all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from cckt.detector.config.terms import TermConfig
from cckt.detector.students.contract import DetectionLoss, Pairs, StudentOutput
from cckt.detector.students.targets import PaddedTargets


class Ranks(Protocol):
    """The ranks of a step; `ranks/world.py` has the implementation."""

    @property
    def rank(self) -> int:
        """Number of this rank."""

    def gather_rows(self, rows: Tensor) -> Tensor:
        """(n, ...) -> (R n, ...): concatenate the rows of all ranks; gradients flow back to the rank of each
        row."""


class OneRank:
    """A step of one rank."""

    rank = 0

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows


ONE_RANK: Ranks = OneRank()
"""For a step without other ranks, or a loss that does not need them."""


@dataclass(frozen=True)
class StepInputs:
    """Inputs of every term in a step."""

    output: StudentOutput
    pairs: Pairs
    detection: DetectionLoss
    """Of the student; holds further regions to distil into, if there are any."""
    targets: PaddedTargets
    ranks: Ranks = ONE_RANK


@dataclass(frozen=True)
class RunInputs:
    """What is known of a run before its first step."""

    text: Tensor
    """(C, D) unit text embeddings of the base concepts."""
    layers: int = 1
    """L, the output layers of the student."""
    proposals: int = 0
    """Most distilled proposals of an image (`data.proposals`)."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of teacher rows -> how their column was made."""
    class_crops: Callable[[int], tuple[Tensor, Tensor]] | None = None
    """Seed -> unit embeddings (C, D) of one cached crop of every base class, and (C,) bool: the class has
    one. None if the run has no crops."""


class Term(nn.Module):
    """A distillation loss. Constructed as `Class(options, tau, embedding_dim)`, then `prepare`d.

    options: its section. tau: temperature of cosines (`model.tau`). embedding_dim: D of the teacher.
    """

    name: ClassVar[str]
    """Name of its loss in logs."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Names of the teacher rows that it reads (`data/teacher_rows.py`)."""
    trains_regions: ClassVar[bool] = True
    """Whether its gradient reaches the region embedding."""

    def __init__(self, options: TermConfig, tau: float, embedding_dim: int) -> None:
        super().__init__()
        self.options, self.tau, self.embedding_dim = options, tau, embedding_dim

    @classmethod
    def rows_of(cls, options: TermConfig, proposals: bool) -> tuple[str, ...]:
        """Return the teacher rows that it reads with these options. proposals: whether the run has any."""
        return cls.needs

    @property
    def normalised(self) -> bool:
        """Whether the loss is a mean already. Otherwise it is a sum that the objective divides by the
        objects."""
        return False

    def prepare(self, run: RunInputs) -> None:
        """Register the buffers that depend on the run; called once, before weights are restored."""

    def needs_all_ranks(self, extra_regions: bool) -> bool:
        """Whether an image is contrasted with other images, so that ranks must compute the term together.

        extra_regions: whether the student returns `ExtraRegions`.
        """
        return False

    def counted(self, targets: PaddedTargets, ranks: Ranks) -> Tensor | None:
        """Return the number of this rank's objects that its sum is divided by, a float scalar; None: all
        objects."""
        return None

    @abstractmethod
    def forward(self, step: StepInputs) -> dict[str, Tensor]:
        """Return name -> loss, weighted by `options.weight`; a sum over this rank's objects, or `normalised`.

        Without anything to distil every loss is 0, connected to the graph. A name of the student's losses is
        added to that loss. Runs in float32, outside of autocast.
        """
