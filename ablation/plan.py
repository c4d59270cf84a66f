"""What an ablation compares: rows of Table 4, teachers, priors or options; on which data and seeds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, apply_overrides, changed
from cckt.detector.config.recipes import in_epochs, recipe, without_contrast, without_guidance

RHOS, LIMITS = (0.70, 0.90), (6, 12)
"""rho and L of Table 6 in the paper."""
ROW_TABLES = ("options", "finetune")
"""Tables that take --row."""
WITH_PROPOSALS = ("levels", "retention", "finetune")
"""Tables that make proposals, the last one if its recipe reads any."""
OPTIONS_OF_PROPOSALS = ("--run", "--top", "--nouns-from")
EPOCHS_OF_CURVES = (2, 4, 8, 16, 32)
"""Epochs at which `cckt ablate retention` evaluates."""
PHOTOS, HELD_OUT = 2800, 1000
"""Rendered photos to train on and to evaluate on, unless given."""
PROPOSALS_TOP = 20
"""Proposals per photo of shapeworld, whose photos show at most about ten objects."""


@dataclass(frozen=True)
class Row:
    """A row of Table 4: the parts of the method that it has, and the paper's AP50 novel.

    similarity: scored by similarity, else by the class head. scored_from: key of the row whose trained
    weights this row scores in another way; "" for a row with its own training.
    """

    key: str
    label: str
    guidance: bool
    contrast: bool
    similarity: bool
    paper: float
    scored_from: str = ""

    def config(self, full: Config) -> Config:
        """Return the full recipe without the parts that this row lacks.

        Every row has a separate embedding for the class head, as in the paper. With a shared embedding
        (model.class_embedding=region) the class head and similarity would rank detections alike.
        """
        config = changed(full, "model", class_embedding="own")
        if not self.guidance:
            config = without_guidance(config)
        if not self.contrast:
            config = without_contrast(config)
        if not self.similarity:
            config = changed(config, "inference", classification="head")
        return config

    def options(self, full: Config) -> dict[str, Any]:
        """Return the options in which this row differs from the recipe: "section.name" -> value."""
        return differences(full, self.config(full))

    def run(self, out: Path, seed: int) -> Path:
        """Return the folder of the run that this row scores."""
        return out / "table4" / f"{self.scored_from or self.key}-{seed}"


ROWS = (
    Row("plain", "plain Deformable DETR", False, False, False, 0.254),
    Row("guidance", "+ guidance", True, False, False, 0.326),
    Row(
        "guidance-contrast",
        "+ guidance + contrast, scored by the class head",
        True,
        True,
        False,
        0.317,
        "all",
    ),
    Row("contrast-similarity", "contrast + similarity without guidance", False, True, True, 0.337),
    Row("all", "all three", True, True, True, 0.380),
)
"""Rows 3 and 5 are one training scored in two ways (docs/method/cckt_det.md, section 11)."""

FULL_ROW = ROWS[-1]


@dataclass(frozen=True)
class AblationPlan:
    """What is compared, and on which data.

    train, val: data set folders; None renders shapeworld under `out`, with `photos` to train on and
    `held_out` to evaluate on. overrides: options of every run. epochs: length of the schedule, whose phases
    keep their proportions; None keeps the recipe's. teachers: of table5, weakest first. run: of table6; None
    takes seed 0 of Table 4's last row, trained if needed; where proposals are made, the run that proposes
    them; None trains one. rhos, limits: of table6. rows: of options and finetune, each
    "section.option=value" or several of them separated by spaces. nouns_from: where proposals are made, a
    word list for their nouns; None asks shapeworld's multimodal LLM. top: most proposals per photo. at: of
    retention, the epochs of the curves.
    """

    out: Path
    recipe: str = "shapeworld"
    seeds: int = 3
    train: Path | None = None
    val: Path | None = None
    overrides: tuple[str, ...] = ()
    epochs: int | None = None
    photos: int = PHOTOS
    held_out: int = HELD_OUT
    teachers: tuple[str, ...] = ()
    run: Path | None = None
    rhos: tuple[float, ...] = RHOS
    limits: tuple[int, ...] = LIMITS
    rows: tuple[str, ...] = ()
    nouns_from: Path | None = None
    top: int = PROPOSALS_TOP
    at: tuple[int, ...] = EPOCHS_OF_CURVES
    resamples: int = 500

    @property
    def given(self) -> dict[str, bool]:
        """Option that only some tables have -> whether it was given."""
        return {
            "--row": bool(self.rows),
            "--rho": self.rhos != RHOS,
            "--limit": self.limits != LIMITS,
            "--teacher": bool(self.teachers),
            "--at": self.at != EPOCHS_OF_CURVES,
            "--run": self.run is not None,
            "--top": self.top != PROPOSALS_TOP,
            "--nouns-from": self.nouns_from is not None,
        }

    def started(self) -> Config:
        """Return the recipe with the epochs and the options of every run."""
        config = recipe(self.recipe)
        if self.epochs is not None:
            config = in_epochs(config, self.epochs)
        return apply_overrides(config, self.overrides)

    def config(self) -> Config:
        """Return the config of the full method. Raises UserError if it lacks a part that a table removes."""
        config = self.started()
        parts = {
            "guidance.enabled": config.guidance.enabled,
            "prior.source": config.prior.cached,
            "terms.region_contrast.weight": config.terms["region_contrast"].weight > 0,
            "inference.classification": config.inference.classification != "head",
        }
        for option, present in parts.items():
            if not present:
                raise UserError(
                    f"option {option}: an ablation starts from all parts of the method, but the recipe "
                    f"{self.recipe} with your options lacks this one; keep the recipe's value."
                )
        return config

    def configs(self, *, every_part: bool = True) -> dict[str, Config]:
        """Return the config of the full method under "", and that of each of `rows`.

        every_part: the recipe must have all parts of CCKT-Det, as for `config`. Raises UserError for a row
        that cannot be parsed, an unknown option, and two equal rows.
        """
        configs = {"": self.config() if every_part else self.started()}
        for row in self.rows:
            config = apply_overrides(configs[""], _assignments(row), f'--row "{row}"')
            for other, known in configs.items():
                if known == config:
                    same = f'row "{other}"' if other else "recipe with your options"
                    raise UserError(f'--row "{row}": is the same as the {same}; remove it.')
            configs[row] = config
        return configs


def _assignments(row: str) -> list[str]:
    try:
        return shlex.split(row)
    except ValueError as error:
        raise UserError(
            f'--row "{row}": {error}; expected SECTION.OPTION=VALUE, several separated by spaces.'
        ) from None


def differences(config: Config, other: Config) -> dict[str, Any]:
    """Return the options in which `other` differs from `config`: "section.name" -> value in `other`."""
    ours = config.options()
    return {name: value for name, value in other.options().items() if value != ours.get(name)}
