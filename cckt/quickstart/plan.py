"""Sizes and recipes of a quickstart."""

from __future__ import annotations

from dataclasses import dataclass

from cckt.detector.config.config import Config, apply_overrides, changed
from cckt.detector.config.recipes import base_only, recipe


@dataclass(frozen=True)
class QuickstartPlan:
    """Size of a quickstart: photos to train on and to hold out, and its trainings."""

    train_photos: int
    held_out_photos: int
    base_epochs: int
    """Of the first training, on base boxes alone."""
    epochs: int
    """Of the second one, which starts from the first and also learns from named regions."""
    overrides: tuple[str, ...] = ()
    """Options of every training; they come after the epochs."""
    recipe: str = "shapeworld-hdovd-fasterrcnn"
    cckt_recipe: str = "shapeworld-fast"
    """Of `--cckt`, with the epochs of both trainings."""
    top: int = 8
    """Most regions of a photo."""
    ask: int = 1500
    """Regions that the multimodal LLM names; the teacher chooses among these names for all regions."""
    teacher: str = "shapeworld"

    def base(self) -> Config:
        """Return the config of the first training."""
        return base_only(self._of(self.recipe, self.base_epochs))

    def distilled(self) -> Config:
        """Return the config of the second training."""
        return self._of(self.recipe, self.epochs)

    def plain(self) -> Config:
        """Return the config of `--plain`: base boxes alone, for the epochs of both trainings."""
        return base_only(self._of(self.recipe, self.base_epochs + self.epochs))

    def cckt(self) -> Config:
        """Return the config of `--cckt`."""
        return self._of(self.cckt_recipe, self.base_epochs + self.epochs)

    def _of(self, name: str, epochs: int) -> Config:
        return apply_overrides(changed(recipe(name), "train", epochs=epochs), self.overrides)


QUICK = QuickstartPlan(2800, 400, base_epochs=2, epochs=4, overrides=("train.checkpoint_every=200",))
"""Ten minutes on two cores."""

FULL = QuickstartPlan(5000, 1000, base_epochs=2, epochs=8, overrides=("train.checkpoint_every=500",))
"""Half an hour on two cores."""
