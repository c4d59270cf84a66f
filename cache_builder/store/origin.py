"""Whose embeddings a column holds, and the one check that two columns can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.reader import Column


def teacher_of(recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the teacher in a recipe: its name, weight_digest and more. None for an imported table."""
    teacher = recipe.get("teacher")
    return dict(teacher) if isinstance(teacher, Mapping) else None


def architecture_differences(recorded: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """Return the settings in which two architectures of the same weights differ, as "text_cfg.heads".

    Settings that only one of them states do not count, because versions of open_clip add some; QuickGELU is
    off if it is not stated. [] if one of the architectures is unknown.
    """
    if not isinstance(recorded, Mapping) or not isinstance(now, Mapping):
        return []
    found = []
    for key in sorted(recorded.keys() & now.keys() - {"quick_gelu"}):
        if isinstance(recorded[key], Mapping):
            found += [f"{key}.{inner}" for inner in architecture_differences(recorded[key], now[key])]
        elif recorded[key] != now[key]:
            found.append(key)
    if bool(recorded.get("quick_gelu")) != bool(now.get("quick_gelu")):
        found.append("quick_gelu")
    return found


@dataclass(frozen=True)
class Origin:
    """The teacher of something that holds embeddings or was trained with them."""

    what: str
    """For messages: "column text of caches/coco", "the run's embeddings"."""
    teacher: Mapping[str, Any] | None
    width: int

    @staticmethod
    def of(column: Column, what: str = "") -> Origin:
        """Return the origin of a column."""
        spec = column.manifest.spec
        return Origin(what or f"column {spec.name}", teacher_of(spec.recipe), column.width)


def require_same_teacher(first: Origin, second: Origin, *, step: str, imported: bool = False) -> None:
    """Raise UserError, naming both digests, unless the embeddings of both come from one teacher.

    The weights and the architecture decide, not the name. step: what the user can do, after "; ". imported:
    accept an imported table that names no teacher, if its width fits.
    """
    one, other = first.teacher, second.teacher
    for origin in (first, second):
        if origin.teacher is None and not imported:
            raise UserError(
                f"{origin.what} was imported without the name of its teacher, expected one; import it again "
                "with --teacher NAME --overwrite, NAME being the teacher that made the table."
            )
    if one is not None and other is not None:
        if one.get("weight_digest") != other.get("weight_digest"):
            raise UserError(
                f"{first.what} was made by teacher {one.get('name')} ({one.get('weight_digest')}), "
                f"{second.what} by {other.get('name')} ({other.get('weight_digest')}), expected the same "
                f"weights; {step}."
            )
        built = [teacher.get("architecture") for teacher in (one, other)]
        if None not in built and built[0] != built[1]:
            raise UserError(
                f"{first.what} and {second.what} have the same weights ({one['weight_digest']}) in different "
                f"architectures ({one.get('name')}, {other.get('name')}), expected one; {step}."
            )
    if first.width != second.width:
        raise UserError(
            f"{first.what} is {first.width} wide, {second.what} {second.width}, expected one teacher's "
            f"width; {step}."
        )
