"""What a column's name says: what it holds, of which of several teachers, and in which view.

`crops` is the first teacher's; a second one's is `crops-vitl14` after a label of the user's choice. Views of
the crops follow: `crops-flipped`, `crops-jitter-2`, `crops-vitl14-flipped`. `priors/clip-vitl14` likewise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cckt.cache_builder.base.errors import UserError

FLIPPED = "flipped"
JITTER = "jitter"

_NAME = re.compile(
    r"(?P<kind>text|crops|images|priors/[a-z]+)(-(?P<label>[a-z0-9_]+))??(-(?P<view>flipped|jitter-\d+))?"
)
_LABEL = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class ColumnName:
    """The parts of a column's name."""

    kind: str
    """ "text", "crops", "images", "priors/clip" or "priors/mllm"."""
    label: str = ""
    """The user's word for a second teacher; "" for the first."""
    view: str = ""
    """Of crops: "" as they are, "flipped", or "jitter-1" to "jitter-k"."""

    def __str__(self) -> str:
        return "-".join(part for part in (self.kind, self.label, self.view) if part)

    @property
    def jitter(self) -> int:
        """Number of the jittered view, from 1; 0 where it is none."""
        return int(self.view.rpartition("-")[2]) if self.view.startswith(JITTER) else 0

    @property
    def options(self) -> str:
        """The options of `cckt cache` that lead to this name, each after a space."""
        view = f" --jitter {self.jitter}" if self.jitter else " --flipped" if self.view else ""
        return (f" --name {self.label}" if self.label else "") + view


def parse_name(name: str) -> ColumnName | None:
    """The parts of a column's name; None for a name that no verb gives."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return ColumnName(found["kind"], found["label"] or "", found["view"] or "")


def check_label(label: str) -> str:
    """The label itself. UserError where it cannot stand in a column's name; "" is the first teacher's."""
    if label and (not _LABEL.fullmatch(label) or label in (FLIPPED, JITTER)):
        raise UserError(
            f"--name {label!r} cannot be used: expected lower-case letters, digits and _, as in vitl14, and "
            f"neither {FLIPPED} nor {JITTER}; choose another."
        )
    return label
