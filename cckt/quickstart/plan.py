"""Sizes and recipes of a quickstart."""

from __future__ import annotations

from dataclasses import dataclass

from cckt.detector.config.config import Config, apply_overrides
from cckt.detector.config.recipes import recipe


@dataclass(frozen=True)
class Distillation:
    """The second training: another detector learns base boxes and named regions of unannotated objects.

    It starts from those weights of the first one that fit, its backbone.
    """

    recipe: str = "shapeworld-hdovd-adamixer"
    overrides: tuple[str, ...] = ()
    top: int = 8
    """Most regions of a photo."""
    ask: int = 1500
    """Regions that the multimodal LLM names; the teacher chooses among these names for all regions."""


@dataclass(frozen=True)
class QuickstartPlan:
    """Size of a quickstart: photos to train on and to hold out, and the recipes with their overrides."""

    train_photos: int
    held_out_photos: int
    recipe: str = "shapeworld-fast"
    overrides: tuple[str, ...] = ()
    teacher: str = "shapeworld"
    distillation: Distillation | None = None
    """None: only the first training."""

    def config(self) -> Config:
        """Return the config of the first training."""
        return apply_overrides(recipe(self.recipe), self.overrides)

    def distilled(self) -> Config | None:
        """Return the config of the second training, if there is one."""
        if self.distillation is None:
            return None
        return apply_overrides(recipe(self.distillation.recipe), self.distillation.overrides)


_OFTEN = "train.checkpoint_every=200"

QUICK = QuickstartPlan(
    2800,
    400,
    overrides=("train.epochs=3", _OFTEN),
    distillation=Distillation(overrides=("train.epochs=3", _OFTEN)),
)
"""Ten minutes on two cores."""

FULL = QuickstartPlan(
    5000,
    1000,
    overrides=("train.epochs=4", "train.checkpoint_every=500"),
    distillation=Distillation(overrides=("train.epochs=6", "train.checkpoint_every=500")),
)
"""Half an hour on two cores."""
