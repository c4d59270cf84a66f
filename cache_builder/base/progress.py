"""How long work says where it is, without printing.

Rooms report to a `Progress`; only the command line turns reports into bars or plain lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """What a long function calls while it works."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a stage of `total` units ("photos", "steps", ...)."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """`n` more units are done; `figures` are shown beside the rate (a loss, a count)."""

    def show(self, figures: Mapping[str, Mapping[str, float | str]]) -> None:
        """A table beside the stage: of each row its subject and its figures by name. The last one counts."""

    def note(self, message: str) -> None:
        """A line worth keeping: a bad photo, a repaired chunk."""

    def finish(self) -> None:
        """The stage is over."""


class Silent:
    """A `Progress` that says nothing: the default of every library function."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Do nothing."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Do nothing."""

    def show(self, figures: Mapping[str, Mapping[str, float | str]]) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""
