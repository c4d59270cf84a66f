"""Plans of ablations that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cckt.ablation import AblationPlan
from tests.commands.front import SMALL

MICRO: dict[str, Any] = {"photos": 8, "held_out": 6, "overrides": (*SMALL, "prior.rho=0.1")}
TWO_PROPOSALS = (*SMALL, "data.proposals=2", "data.min_proposal_side=4")


def plan_with_words(folder: Path, **options: Any) -> AblationPlan:
    """Return a plan in a folder whose nouns are chosen from a list of words."""
    words = folder / "words.txt"
    words.write_text("star\nsun\ncloud\nwheel\nlamp\nface\n")
    return AblationPlan(folder / "out", nouns_from=words, **options)
