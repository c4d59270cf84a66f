"""Length of a run: `cckt train --epochs` and `--minutes`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.base.untrusted.text import natural
from cckt.cache_builder.index import open_index
from cckt.detector.config.config import Config
from cckt.detector.data.dataset import used_images
from cckt.detector.data.schedule import Schedule
from cckt.detector.training.forecast import automatic_epochs, with_epochs
from cckt.detector.training.train import train

TRIAL = (2, 6)
"""Steps of the two trials that time a step; the difference leaves out the start."""
USABLE = 0.9
"""Share of `--minutes` that is planned for training; the rest is evaluation."""


def planned(config: Config, data: Path, epochs: str | None, minutes: float | None) -> Config:
    """Return the config with the length that `--epochs` and `--minutes` ask for.

    epochs: a number or "auto". minutes: budget of training; the epochs that fit are found by timing a few
    steps, and limit those of `epochs`. Raises UserError for values out of range, and for a budget that is too
    small for one epoch.
    """
    if epochs is None and minutes is None:
        return config
    photos = len(used_images(open_index(data), config.data))
    count = config.train.epochs
    if epochs == "auto":
        count = automatic_epochs(photos)
    elif epochs is not None:
        number = natural(epochs)
        if not number:
            raise UserError(f"--epochs {epochs}: expected auto or a whole number of at least 1.")
        count = number
    if minutes is not None:
        if not minutes > 0:
            raise UserError(f"--minutes {minutes:g}: expected a number above 0.")
        steps = Schedule(photos, config.train.seed, config.train.batch).steps_per_epoch
        seconds = seconds_per_step(config, data)
        fitting = int(minutes * 60 * USABLE / (seconds * max(steps, 1)))
        if not fitting:
            raise UserError(
                f"--minutes {minutes:g}: an epoch takes {seconds * steps / 60:.1f} minutes here "
                f"({counted(steps, 'step')} of {seconds:.2f} s), expected a budget for at least one; give "
                "more minutes "
                "or a smaller recipe."
            )
        count = min(count, fitting) if epochs is not None else fitting
    return with_epochs(config, count, photos)


def seconds_per_step(config: Config, data: Path) -> float:
    """Return the seconds of a training step on this machine, by training a few steps.

    Every rank returns the figure of rank 0. Raises KeyboardInterrupt when a signal stops the training.
    """
    seconds = []
    for steps in TRIAL:
        with tempfile.TemporaryDirectory() as folder:
            figures = train(config, data, None, Path(folder) / "trial", max_steps=steps, progress=Silent())
        if figures["stopped"]:
            raise KeyboardInterrupt  # `train` has caught it; there is nothing to keep
        seconds.append(float(figures["seconds"]))
    return max(seconds[1] - seconds[0], 1e-3) / (TRIAL[1] - TRIAL[0])
