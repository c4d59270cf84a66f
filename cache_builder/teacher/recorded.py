"""A teacher that a file names, such as the facts of a run: taken if it is the user's own, else asked for.

Runs and columns may come from strangers. No code of a teacher is executed, but loading one downloads from a
repository, or reads a folder, that somebody else chose.
"""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.teacher.clip import CONFIG, is_published


def require_own_teacher(name: str, named_by: Path | str) -> None:
    """Raise UserError if the user has to name the teacher, which `named_by` names, on the command line."""
    if what := foreign_teacher(name):
        raise UserError(
            f"{named_by} was made with the teacher {name}, {what}; add --teacher {quoted(name)} if "
            "you trust it."
        )


def foreign_teacher(name: str) -> str:
    """Return what the teacher `name` is, if it is not the user's own; "" if it is.

    The user's own are: shapeworld, weights that open_clip lists and untrained ones, repositories of the hub
    that were downloaded before, and files and folders that belong to the user or to root. What does not exist
    passes: `load_teacher` reports it.
    """
    if name.startswith("hf-hub:"):
        own = _is_downloaded(name.removeprefix("hf-hub:"))
        return "" if own else "a repository that you have not used"
    if name.startswith("local-dir:"):
        return "" if _is_own(name.removeprefix("local-dir:")) else "a folder of another user"
    architecture, _, weights = name.partition("/")
    own = is_published(architecture, weights) or not weights or _is_own(weights)
    return "" if own else "a file of another user"


def _is_downloaded(repository: str) -> bool:
    try:
        return isinstance(try_to_load_from_cache(repository, CONFIG), str)
    except HFValidationError:  # no name of a repository
        return True


def _is_own(path: str) -> bool:
    try:
        return Path(path).stat().st_uid in (0, os.geteuid())
    except (OSError, ValueError):
        return True
