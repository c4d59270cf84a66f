"""Options of the distillation terms: one section per term, all listed in one table.

A term is off while its weight is 0. Its code is the class of the same name in `losses/terms/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cckt.detector.config.checks import at_least


@dataclass(frozen=True)
class TermConfig:
    """Options that every distillation term has."""

    weight: float = 0.0
    """Factor on the term's loss; 0 turns the term off."""
    first_epoch: int = 0
    """First epoch (counted from 0) with the term."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        at_least(section, self, 0, "weight", "first_epoch")


@dataclass(frozen=True)
class RegionContrastConfig(TermConfig):
    """Regional contrastive distillation (docs/method/cckt_det.md, eqs. 19 to 22)."""

    weight: float = 1.0
    """Factor on the contrastive loss; 0 turns it off."""
    first_epoch: int = 31
    """First epoch (counted from 0) with the contrastive loss."""
    negatives: Literal["image", "batch"] = "image"
    """Decision. Other queries and objects in the contrast: those of the same image, or those of the batch (of
    all ranks, but only of one accumulated part: more parts mean fewer negatives)."""
    teacher_bank: Literal["instance", "class"] = "instance"
    """Decision. "instance": the crop of each object; "class": one valid crop per class and step, drawn from
    the batch, with several positives per class (the authors' code)."""


TERM_SECTIONS: dict[str, type[TermConfig]] = {"region_contrast": RegionContrastConfig}
"""Term -> its section; the options are named `terms.TERM.OPTION`."""


def default_terms() -> dict[str, TermConfig]:
    """Return every term of the table with its default options."""
    return {name: section() for name, section in TERM_SECTIONS.items()}
