"""What a kind of columns is, and the options of its command as they are read from a column's recipe.

A value that no recipe holds is in capitals for the user to fill in: the path of a run or of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Recipe = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """An option of a kind's command that decides values, and so is part of the recipe."""

    option: str
    value: Callable[[Recipe], Any]
    """Value of the option, read from a recipe; None or False if the option was not used."""
    default: Any = None


@dataclass(frozen=True)
class ColumnKind:
    """One kind of columns."""

    name: str
    """ "crops", or "priors/clip": the first part is the verb of `cckt cache`, unless `verb` names it."""
    table: str
    """Table of the rows, one of `TABLES`."""
    dtype: str
    unit: bool
    """Whether valid rows have length 1."""
    has_valid: bool
    """Whether rows have a flag."""
    takes_label: bool
    """Whether a data set may hold the columns of several teachers, each with a label."""
    views: tuple[str, ...]
    """Views in addition to the plain one: FLIPPED, JITTER (which is numbered from 1)."""
    settings: tuple[Setting, ...]
    """Options of the command, in their order there."""
    help: str
    """What a row holds, in one line."""
    verb: str = ""
    """Verb of `cckt cache`, if it is not the first part of the name."""
    takes_out: bool = True
    """Whether the verb writes to another place with --out."""


def at(*keys: str) -> Callable[[Recipe], Any]:
    """Return a function that reads the value under `keys` of a recipe; None if it is missing."""

    def read(recipe: Recipe) -> Any:
        value: Any = recipe
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return read


def templates_of(recipe: Recipe) -> Any:
    """Return the value of --templates."""
    name = at("templates", "name")(recipe)
    return "TEMPLATES_FILE" if name == "own" else name


def prefilter_of(recipe: Recipe) -> Any:
    """Return the value of --prefilter."""
    keep = at("prefilter", "keep")(recipe)
    return f"clip:{keep}" if keep else None


def source_of(maker: str, path: str = "") -> Callable[[Recipe], Any]:
    """Return a function that reads the source of proposals, if their maker is `maker`; path: stands for "
    "it."""

    def read(recipe: Recipe) -> Any:
        provenance = recipe.get("provenance", {})
        return (path or provenance.get("name")) if provenance.get("maker") == maker else None

    return read


def stated_on_maker(key: str) -> Callable[[Recipe], Any]:
    """Return a function that reads what the user states on a maker; of a run it is known."""

    def read(recipe: Recipe) -> Any:
        provenance = recipe.get("provenance", {})
        return None if provenance.get("maker") == "run" else provenance.get(key)

    return read


def calibrate_of(recipe: Recipe) -> Any:
    """Return the value of --calibrate."""
    return "TRAINING_DATA" if at("calibrated_on")(recipe) else None
