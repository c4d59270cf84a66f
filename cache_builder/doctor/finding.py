"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of one check. good: in order; warn: usable, but limited; bad: must be repaired first."""

    level: Literal["good", "warn", "bad"]
    subject: str
    message: str
