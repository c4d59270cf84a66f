"""The whole config of a detector: one frozen dataclass of sections. The defaults are the paper's.

A changed config is a new one (`dataclasses.replace`, `apply_overrides`, `changed`). Checks name the option to
change. Each decision where the paper is silent is a field whose docstring lists the alternatives.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import require_regular
from cckt.detector.config.checks import require
from cckt.detector.config.data import DataConfig
from cckt.detector.config.dataclass_io import flat, merged, override, to_mapping, toml_text
from cckt.detector.config.inference import InferenceConfig, PriorConfig
from cckt.detector.config.method import DenoiseConfig, GuidanceConfig, OneToManyConfig
from cckt.detector.config.model import LossConfig, MatcherConfig, ModelConfig
from cckt.detector.config.renamed import check_name, with_new_names
from cckt.detector.config.students import AdaMixerConfig, FasterRcnnConfig
from cckt.detector.config.terms import TermConfig, default_terms
from cckt.detector.config.train import TrainConfig

__all__ = [
    "AdaMixerConfig",
    "Config",
    "DataConfig",
    "DenoiseConfig",
    "FasterRcnnConfig",
    "GuidanceConfig",
    "InferenceConfig",
    "LossConfig",
    "MatcherConfig",
    "ModelConfig",
    "OneToManyConfig",
    "PriorConfig",
    "TrainConfig",
    "apply_overrides",
    "changed",
    "load_config",
    "save_config",
]


@dataclass(frozen=True)
class Config:
    """All options; a recipe is a function that returns one."""

    recipe: str = "coco-48-17-r50"
    """Name of the recipe that it started from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    terms: Mapping[str, TermConfig] = field(default_factory=default_terms)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    one_to_many: OneToManyConfig = field(default_factory=OneToManyConfig)
    faster_rcnn: FasterRcnnConfig = field(default_factory=FasterRcnnConfig)
    adamixer: AdaMixerConfig = field(default_factory=AdaMixerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def __post_init__(self) -> None:
        require(
            self.denoise.groups == 0 or self.model.reference != "learned",
            "denoise.groups",
            self.denoise.groups,
            "0 with model.reference learned, whose queries start at points and not at boxes",
        )
        require(
            self.model.objectness or not self.matcher.class_agnostic,
            "matcher.class_agnostic",
            self.matcher.class_agnostic,
            "false without model.objectness, which the cost of eq. 14 reads",
        )
        for name, term in self.terms.items():
            term.check(f"terms.{name}")

    @property
    def trains_cckt(self) -> bool:
        """Whether a part of CCKT-Det is trained: its guidance or its contrast."""
        return self.guidance.enabled or self.terms["region_contrast"].weight > 0

    @property
    def trains_on_priors(self) -> bool:
        """Whether training reads a column of priors of its own photos."""
        return self.guidance.enabled and self.guidance.priors > 0

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts of plain JSON values."""
        return to_mapping(self)

    def options(self) -> dict[str, Any]:
        """Return dotted name -> plain value of every option of a section: {"train.lr": 1e-4, ...}."""
        return {name: value for name, value in flat(self.to_dict()).items() if "." in name}

    @staticmethod
    def from_dict(values: Mapping[str, Any], where: str = "config") -> Config:
        """Return the inverse of `to_dict`; missing options have their defaults, old names are accepted."""
        return merged(Config(), with_new_names(values, where), where)

    def to_toml(self) -> str:
        """Return TOML that `load_config` reads back as an equal config."""
        return toml_text(self.to_dict())


def apply_overrides(config: Config, assignments: Iterable[str], where: str = "--set") -> Config:
    """Return the config with assignments such as `["train.epochs=12", "model.strides=4,8,16"]` applied.

    where: source of the assignments, for messages. Raises UserError for an unknown option (naming the nearest
    one, or the new name of a renamed one), a value of another type, or a value out of range.
    """
    assignments = list(assignments)
    for text in assignments:
        check_name(text.partition("=")[0].strip(), where)
    return override(config, assignments, where)


def load_config(path: Path | str, base: Config | None = None) -> Config:
    """Return `base` (default: the defaults) with a TOML file applied; old option names are accepted.

    Raises UserError naming the file.
    """
    path = Path(path)
    try:
        with require_regular(path).open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file; expected a TOML file of options.") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(
            f"--config {path}: found no readable TOML ({error}); expected sections of options."
        ) from None
    return merged(base if base is not None else Config(), with_new_names(values, str(path)), str(path))


def save_config(config: Config, path: Path | str) -> None:
    """Write a config as TOML, atomically."""
    write_bytes(Path(path), config.to_toml().encode())


def changed(config: Config, section: str, **values: Any) -> Config:
    """Return a copy with options of one section replaced: `changed(config, "train", epochs=12)`.

    A section of a term is named by its path: `changed(config, "terms.region_contrast", weight=0.25)`.
    """
    if section.startswith("terms."):
        name = section.removeprefix("terms.")
        term = dataclasses.replace(config.terms[name], **values)
        return dataclasses.replace(config, terms={**config.terms, name: term})
    part = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: part})
