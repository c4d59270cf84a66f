"""Refuse models whose configuration asks for more layers than any model has.

Libraries build a model from its configuration before they look at its weights: a number of a billion layers
in a small file would keep them busy for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cckt.cache_builder.base.errors import UserError, brief

MOST_LAYERS = 2000
"""More than any published vision or language model has."""

_COUNTS_LAYERS = re.compile(r"(.*_)?(n_?)?(layers?|depths?|blocks|stages)")


def refuse_absurd_depth(what: str, config: Any) -> None:
    """Raise UserError if an entry of a configuration, at any level, counts more than MOST_LAYERS layers.

    what: the model for the message, such as "teacher hf-hub:a/b". config: of JSON values.
    """
    for name, value in _entries(config):
        if _COUNTS_LAYERS.fullmatch(name) and _most(value) > MOST_LAYERS:
            raise UserError(
                f"{what}: its configuration has {name} = {brief(value)}, expected at most {MOST_LAYERS} "
                "layers, more than any known model; restore the file or name another model."
            )


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of every entry of a JSON value."""
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            yield from ((str(key), value) for key, value in one.items())
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one


def _most(value: Any) -> float:
    """Return the largest number of a value, which may be a list of them."""
    numbers = value if isinstance(value, list | tuple) else [value]
    return max((one for one in numbers if isinstance(one, int | float)), default=0)
