"""What an ablation compares: the rows of Table 4, teachers, priors or options; on which data and seeds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, apply_overrides, changed
from cckt.detector.config.recipes import recipe, without_contrast, without_guidance


@dataclass(frozen=True)
class Row:
    """A row of Table 4: its parts, and the paper's AP50 novel."""

    key: str
    label: str
    guidance: bool
    contrast: bool
    similarity: bool
    paper: float

    def config(self, full: Config) -> Config:
        """The full recipe without the parts that this row lacks.

        What is not scored by similarity has a class head of its own, as METHOD.md's has: a recipe whose head
        reads the region embedding would rank the same by either.
        """
        config = full if self.guidance else without_guidance(full)
        if not self.contrast:
            config = without_contrast(config)
        if not self.similarity:
            config = changed(config, "model", class_embedding="own")
            config = changed(config, "inference", classification="head")
        return config

    def options(self, full: Config) -> dict[str, Any]:
        """The options in which this row's config is not the recipe's: "section.name" -> value."""
        ours, theirs = full.to_dict(), self.config(full).to_dict()
        return {
            f"{section}.{name}": value
            for section, values in theirs.items()
            if isinstance(values, dict)
            for name, value in values.items()
            if value != ours[section][name]
        }


ROWS = (
    Row("plain", "plain Deformable DETR", False, False, False, 0.254),
    Row("guidance", "+ guidance", True, False, False, 0.326),
    Row("guidance-contrast", "+ guidance + contrast, scored by the class head", True, True, False, 0.317),
    Row("contrast-similarity", "contrast + similarity without guidance", False, True, True, 0.337),
    Row("all", "all three", True, True, True, 0.380),
)


@dataclass(frozen=True)
class Plan:
    """What is compared, on which data.

    train, val: data-set folders; None renders shapeworld under `out`: `photos` to train on, `held_out` to
    measure on. overrides: options laid over the recipe, for every run. epochs: a shorter (or longer) schedule
    whose phases keep their proportions; None keeps the recipe's. teachers: of table5, the weakest first.
    run: of table6; None takes, and where need be trains, seed 0 of table 4's last row. rhos, limits: of
    table6. rows: of options, each "section.option=value" or several with spaces between them.
    """

    out: Path
    recipe: str = "shapeworld"
    seeds: int = 3
    train: Path | None = None
    val: Path | None = None
    overrides: tuple[str, ...] = ()
    epochs: int | None = None
    photos: int = 2800
    held_out: int = 1000
    teachers: tuple[str, ...] = ()
    run: Path | None = None
    rhos: tuple[float, ...] = (0.70, 0.90)
    limits: tuple[int, ...] = (6, 12)
    rows: tuple[str, ...] = ()
    resamples: int = 500

    def config(self) -> Config:
        """The full method's config. Raises UserError where the recipe lacks a part that is taken out."""
        config = recipe(self.recipe)
        if self.epochs is not None:
            config = in_epochs(config, self.epochs)
        config = apply_overrides(config, self.overrides)
        parts = {
            "guidance.enabled": config.guidance.enabled,
            "prior.source": config.prior.cached,
            "terms.region_contrast.weight": config.terms["region_contrast"].weight > 0,
            "inference.classification": config.inference.classification != "head",
        }
        for option, there in parts.items():
            if not there:
                raise UserError(
                    f"option {option}: an ablation begins with all parts of the method, and the recipe "
                    f"{self.recipe} as it is set lacks this one; leave the option as the recipe has it."
                )
        return config

    def configs(self) -> dict[str, Config]:
        """The full method's config under "", and that of each of `rows`.

        Raises UserError for a row that cannot be read, an unknown option, and two rows that are the same.
        """
        configs = {"": self.config()}
        for row in self.rows:
            config = apply_overrides(configs[""], _assignments(row), f'--row "{row}"')
            for other, known in configs.items():
                if known == config:
                    same = f'row "{other}"' if other else "recipe as it is set"
                    raise UserError(f'--row "{row}": is the same as the {same}; leave it out.')
            configs[row] = config
        return configs


def _assignments(row: str) -> list[str]:
    try:
        return shlex.split(row)
    except ValueError as error:
        raise UserError(
            f'--row "{row}": {error}; expected SECTION.OPTION=VALUE, several with spaces between them.'
        ) from None


def in_epochs(config: Config, epochs: int) -> Config:
    """The config in so many epochs, lower rate and contrast from the same shares of them on."""
    if epochs < 1:
        raise UserError(f"--epochs {epochs}: expected at least 1.")
    share = epochs / config.train.epochs
    last = epochs - 1
    config = changed(
        config, "train", epochs=epochs, lr_drop_epoch=min(last, round(config.train.lr_drop_epoch * share))
    )
    begin = min(last, round(config.terms["region_contrast"].first_epoch * share))
    return changed(config, "loss", contrast_from_epoch=begin)
