"""Parts: which makers of a column exist, and where each begins."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from cckt.cache_builder.base.errors import UserError


class ExactPart(tuple[int, int]):
    """A part (i, n) that makes exactly its share and nothing of other parts, whatever becomes of them."""

    __slots__ = ()


def part_of(text: str | None = None, environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return the part (i, n) of this process: the i-th of n, counted from 0.

    text: the value of `--part I/N`. environment: holds RANK and WORLD_SIZE under torchrun; default
    os.environ. Both combine: each of N parts may be run by W ranks. Raises UserError for an invalid text.
    """
    index, count = 0, 1
    if text is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise UserError(
                f"--part is {text!r}: expected I/N with I from 0 to N-1, as in --part 0/3 for the first of "
                "three."
            )
        index, count = int(match[1]), int(match[2])
    environment = os.environ if environment is None else environment
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        index, count = index * world + rank, count * world
    return index, count
