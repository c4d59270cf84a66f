"""A time limit for work in the main thread that cannot be watched step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.bounded import TookTooLong, bounded


@contextmanager
def time_limit(minutes: float, next_step: str) -> Iterator[None]:
    """Interrupt the block after some minutes, with a UserError that ends in `next_step`; see `bounded`.

    Raises UserError if `minutes` is not above 0.
    """
    if not minutes > 0:
        raise UserError(f"--time-limit {minutes:g}: expected a number of minutes above 0, such as 15.")
    try:
        with bounded(minutes * 60):
            yield
    except TookTooLong:
        raise UserError(f"not finished after {minutes:g} minutes, and stopped; {next_step}.") from None
