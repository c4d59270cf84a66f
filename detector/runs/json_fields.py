"""Fields of a dataclass in JSON that somebody may have edited."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cckt.cache_builder.base.errors import UserError

T = TypeVar("T")


def fields_of(found: Any, kind: type[T], path: Path) -> T:
    """Return the dataclass `kind` whose fields are the JSON value `found` of the file `path`.

    Raises UserError if the value is no object, or a field is missing, unknown or of another type.
    """
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    known = found if isinstance(found, dict) else {}
    required = {
        one.name
        for one in fields
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    }
    wrong = sorted((required - known.keys()) | (known.keys() - hints.keys()))
    wrong += sorted(name for name, value in known.items() if name in hints and not fits(value, hints[name]))
    if wrong:
        raise UserError(
            f"{path}: the entry {wrong[0]!r} is missing, unknown or of another type, expected the file as "
            "cckt wrote it; restore the file."
        )
    return kind(**known)


def fits(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has the type of a hint: of list[int] each item, of a dict only that."""
    if isinstance(hint, types.UnionType):
        return any(fits(value, one) for one in get_args(hint))
    origin = get_origin(hint) or hint
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        return False
    return origin is not list or all(fits(one, get_args(hint)[0]) for one in value)


@contextmanager
def as_written(file: Path, step: str = "restore the file") -> Iterator[None]:
    """Raise UserError for entries that are missing or of another type, which the block uses unchecked.

    file: where they come from, a file or the folder of a run. step: what the user can do.
    """
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{file}: its entries are not as cckt writes them ({type(error).__name__}: {error}), expected "
            f"them as they were; {step}."
        ) from None
