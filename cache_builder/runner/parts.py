"""Divide the chunks of a column among processes that share only its files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import ColumnWriter

_REFRESH_SECONDS = 5.0
"""How often the list of missing chunks is read again."""


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


def share(writer: ColumnWriter, part: tuple[int, int]) -> list[int]:
    """Return all chunks of a part, made or missing: those with number % n == i.

    The number decides, not the position among the missing chunks, since processes that start at different
    times see different chunks missing.
    """
    index, count = part
    assert 0 <= index < count, f"expected a part (i, n) with 0 <= i < n, found {part}"
    return list(range(index, writer.n_chunks, count))


def chunks_to_make(writer: ColumnWriter, part: tuple[int, int], assist: bool) -> Iterator[int]:
    """Yield the missing chunks of a part's share, ascending; then, with `assist`, those of other parts.

    Reads the files again from time to time, so that a chunk that another process has finished meanwhile is
    not made twice. With `assist`, chunks are taken from the end, which their own process reaches last. If two
    processes make the same chunk, the bytes are the same.
    """
    missing, refreshed = set(writer.missing()), time.monotonic()
    yielded: set[int] = set()
    for chunk in share(writer, part):
        if chunk in missing and time.monotonic() - refreshed > _REFRESH_SECONDS:
            missing, refreshed = set(writer.missing()), time.monotonic()
        if chunk in missing:
            yielded.add(chunk)
            yield chunk
    while assist:
        left = [chunk for chunk in writer.missing() if chunk not in yielded]
        if not left:
            return
        chunk = left[-1 - part[0] % len(left)]
        yielded.add(chunk)
        yield chunk
