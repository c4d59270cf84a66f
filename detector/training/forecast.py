"""Epochs for a number of photos, and warnings before a run starts."""

from __future__ import annotations

import numpy as np
import torch

from cckt.cache_builder.base.errors import counted, listed
from cckt.cache_builder.index import Index
from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes import in_epochs
from cckt.detector.data.schedule import Schedule
from cckt.detector.training.preflight import Ingredients

SHORTEST, LONGEST = 3, 50
"""Epochs that `--epochs auto` chooses at least and at most."""
SHRUNK = 10.0
"""Factor by which photos are reduced from which a warning says so."""


def automatic_epochs(photos: int) -> int:
    """Return the epochs of `--epochs auto` for a number of photos.

    The images seen grow with the square root of the photos: 2,400 for 150 photos, 13,900 for 5,000, so ten
    minutes to an hour at 4 images/s.
    """
    seen = 2400 * (max(photos, 1) / 150) ** 0.5
    return int(min(LONGEST, max(SHORTEST, round(seen / max(photos, 1)))))


def with_epochs(config: Config, epochs: int, photos: int) -> Config:
    """Return the config with this number of epochs; warm-up, drops and terms begin in proportion."""
    steps = epochs * Schedule(photos, config.train.seed, config.train.batch).steps_per_epoch
    return changed(
        in_epochs(config, epochs), "train", warmup_steps=min(config.train.warmup_steps, steps // 10)
    )


def warnings(
    config: Config, ingredients: Ingredients, index: Index, max_steps: int | None = None
) -> list[str]:
    """Return sentences on what will probably make a run useless, before it starts.

    max_steps: of `cckt train --max-steps`.
    """
    found, train = [], config.train
    per_epoch = Schedule(len(ingredients.photos), train.seed, train.batch).steps_per_epoch
    steps = per_epoch * train.epochs
    enough = max(2 * train.warmup_steps, 200)
    if max_steps is not None and max_steps < enough < steps:
        found.append(
            f"the run ends after {counted(max_steps, 'step')} of {steps}, which train.epochs and "
            f"train.warmup_steps {train.warmup_steps} were made for; leave out --max-steps for a detector "
            "that finds something."
        )
    elif steps <= 2 * train.warmup_steps:
        found.append(
            f"the run has {counted(steps, 'step')} and train.warmup_steps is {train.warmup_steps}, so the "
            "learning rate hardly reaches its value; train longer, such as with --epochs auto, or lower "
            "train.warmup_steps."
        )
    elif steps < 200:
        automatic = automatic_epochs(len(ingredients.photos))
        step = (
            "use --epochs auto"
            if train.epochs < automatic
            else f"use more photos, or --epochs {2 * train.epochs}"
        )
        found.append(
            f"the run has only {counted(steps, 'step')} ({counted(len(index), 'photo')}, "
            f"{counted(train.epochs, 'epoch')} of {counted(per_epoch, 'step')}); a detector that starts "
            f"without detection weights needs hundreds; {step}."
        )
    end = train.epochs if max_steps is None else min(train.epochs, max_steps / per_epoch)
    late = [name for name, term in config.terms.items() if term.weight > 0 and term.first_epoch >= end]
    if late:
        first = config.terms[late[0]].first_epoch
        cause = "--max-steps" if end < train.epochs else "train.epochs"
        found.append(
            f"{listed([f'terms.{name}' for name in late])}: the first epoch is {first}, counted from 0, "
            f"and the run ends after {end:.3g} ({cause}), so what it teaches is never learned; use --epochs "
            f"{train.epochs}, which moves all phases."
        )
    shrink = _reduction(config, index)
    if shrink >= SHRUNK:
        found.append(
            f"half of the photos are reduced {shrink:.0f} times or more, to data.eval_short_side "
            f"{config.data.eval_short_side}, so small objects vanish; use a recipe with larger photos, such "
            "as photos-small."
        )
    teacher = (ingredients.facts.taught_by or {}).get("name", "")
    if "/random:" in teacher:
        found.append(
            f"the teacher {teacher} has untrained weights, so novel concepts cannot be found; make the "
            "columns with trained weights."
        )
    if train.device == "auto" and not torch.cuda.is_available() and config.data.eval_short_side > 480:
        found.append(
            f"there is no GPU, and the recipe trains on photos of {max(config.data.short_sides)} px, which "
            "takes seconds to minutes per photo on a CPU; use --recipe photos-small."
        )
    return found


def _reduction(config: Config, index: Index) -> float:
    """Return the median factor by which evaluation reduces the photos."""
    if not len(index):
        return 1.0
    widths, heights = np.asarray(index.widths, float), np.asarray(index.heights, float)
    short, long = np.minimum(widths, heights), np.maximum(widths, heights)
    scale = np.minimum(config.data.eval_short_side / short, config.data.max_side / long)
    return float(np.median(1 / scale))
