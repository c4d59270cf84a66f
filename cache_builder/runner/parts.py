"""Who makes which chunks: no coordination but chunk numbers, chunk files and ledgers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import ColumnWriter

_LOOK_SECONDS = 5.0


def part_of(text: str | None = None, environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """This process's part (i, n): of `--part I/N` (I from 0), and of torchrun's RANK and WORLD_SIZE where
    they are set.

    Both together multiply: each of N parts may itself be W ranks. Raises UserError for another form.
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
    """All chunks of a part, made or not: those whose number leaves i when divided by n.

    By number and not by place among the missing: makers begin at different instants and see different chunks
    missing.
    """
    index, count = part
    assert 0 <= index < count, f"part {part}"
    return list(range(index, writer.n_chunks, count))


def chunks_to_make(writer: ColumnWriter, part: tuple[int, int], assist: bool) -> Iterator[int]:
    """Missing chunks of the own share, ascending; then, with `assist`, those that other parts have not come
    to.

    Looks at the files again now and then, so that what another maker did meanwhile is not made twice. A
    helper takes from the end, where the chunk's own maker comes last; should both make it, the bytes are the
    same.
    """
    missing, looked = set(writer.missing()), time.monotonic()
    given: set[int] = set()
    for chunk in share(writer, part):
        if chunk in missing and time.monotonic() - looked > _LOOK_SECONDS:
            missing, looked = set(writer.missing()), time.monotonic()
        if chunk in missing:
            given.add(chunk)
            yield chunk
    while assist:
        left = [chunk for chunk in writer.missing() if chunk not in given]
        if not left:
            return
        chunk = left[-1 - part[0] % len(left)]
        given.add(chunk)
        yield chunk
