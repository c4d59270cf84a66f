"""Refuse models whose configuration asks for more layers than any model has.

Libraries build a model from its configuration before they look at its weights, and some make a list of as
many entries when they only read it: a number of a billion layers in a small file would keep them busy for
ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cckt.cache_builder.base.errors import UserError, brief

MOST_LAYERS = 2000
"""More than any published vision or language model has, of layers or of experts in one."""

_COUNTS = re.compile(r"(.*_)?(n_?)?(layers?|depths?|blocks|stages|experts)")
_COUNTS_OF_STAGES = re.compile(r"(n_?)?(layers|depths|blocks|stages)")
"""Entries that may be a list of counts; `mlp_layers` and the like may list widths."""


def refuse_absurd_depth(what: str, config: Any) -> None:
    """Raise UserError if an entry of a configuration, at any level, counts more than MOST_LAYERS layers.

    what: the model for the message, such as "teacher hf-hub:a/b". config: of JSON values.
    """
    for name, value in _entries(config):
        if _is_absurd(name, value):
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


def _is_absurd(name: str, value: Any) -> bool:
    """Whether an entry, or a part of its list, counts more layers than any model has."""
    if isinstance(value, list | tuple):
        return bool(_COUNTS_OF_STAGES.fullmatch(name)) and any(_is_absurd(name, one) for one in value)
    return bool(_COUNTS.fullmatch(name)) and isinstance(value, int | float) and value > MOST_LAYERS
