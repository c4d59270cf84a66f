"""Checks of single options; each message names the option, the value found and the value expected."""

from __future__ import annotations

from cckt.cache_builder.base.errors import UserError


def require(ok: bool, option: str, found: object, expected: str) -> None:
    """Raise UserError unless `ok`."""
    if not ok:
        raise UserError(
            f"option {option}: found {found!r}, expected {expected}; change it with --set {option}=..."
        )


def at_least(section: str, owner: object, low: float, *names: str) -> None:
    """Raise UserError unless the options `names` of a section are at least `low`."""
    for name in names:
        value = getattr(owner, name)
        require(value >= low, f"{section}.{name}", value, f"at least {low:g}")


def at_most(section: str, owner: object, high: float, *names: str) -> None:
    """Raise UserError unless the options `names` of a section are at most `high`.

    For numbers that would take all memory or processes of any machine; no sensible value comes near.
    """
    for name in names:
        value = getattr(owner, name)
        require(value <= high, f"{section}.{name}", value, f"at most {high:g}")


def fraction(section: str, owner: object, *names: str) -> None:
    """Raise UserError unless the options `names` of a section are in [0, 1]."""
    for name in names:
        value = getattr(owner, name)
        require(0 <= value <= 1, f"{section}.{name}", value, "a number from 0 to 1")
