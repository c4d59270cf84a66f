"""Progress protocol for long-running work.

Rooms report to a `Progress`; only the command line turns reports into bars or plain lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receiver of the reports of a long function."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a stage of `total` units ("photos", "steps", ...)."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Count `n` more units as done; `figures` (a loss, a count) are shown with the rate."""

    def show(self, figures: Mapping[str, Mapping[str, float | str]]) -> None:
        """Show a table with the stage: row name -> column name -> value. It replaces the table before."""

    def note(self, message: str) -> None:
        """Report a line that is kept: a bad photo, a repaired chunk."""

    def finish(self) -> None:
        """End the stage."""


class Silent:
    """A `Progress` without output: the default of every library function."""

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
