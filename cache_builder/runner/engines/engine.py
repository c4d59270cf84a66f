"""The contract of an engine, and which one is in use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from cckt.cache_builder.runner.plan import Plan
from cckt.cache_builder.runner.run_report import RunReport


class Engine(Protocol):
    """Makes the units of a plan."""

    begins: bool
    """Whether this process may begin columns, or only joins those that a driver has begun."""
    makes: bool
    """Whether this process computes rows, on the device that makes the column."""

    def run(self, plan: Plan) -> list[RunReport]:
        """Make the missing units of a plan; finish the columns if none is missing. One report per target."""


_engine: ContextVar[Engine | None] = ContextVar("engine", default=None)


@contextlib.contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Let the runs of the block use an engine. So a maker need not know which engine makes its column."""
    before = _engine.set(engine)
    try:
        yield
    finally:
        _engine.reset(before)


def engine_in_use() -> Engine | None:
    """Return the engine of the enclosing `using`; None for the default."""
    return _engine.get()


def begins_columns() -> bool:
    """Return whether the engine in use may begin columns; see `Engine`."""
    engine = engine_in_use()
    return engine is None or engine.begins


def makes_rows() -> bool:
    """Return whether the engine in use computes rows in this process; see `Engine`."""
    engine = engine_in_use()
    return engine is None or engine.makes
