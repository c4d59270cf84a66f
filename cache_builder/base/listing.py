"""Listings of folders that other processes change meanwhile."""

from __future__ import annotations

from pathlib import Path

LISTINGS = 100
"""How often a listing begins again, at most."""


def found_in(folder: Path, *patterns: str) -> list[Path]:
    """Return the paths in a folder that match any of some patterns of `Path.glob`; [] without the folder.

    Another maker may remove a folder while it is listed, which would end the listing early. It begins again,
    since a path that is missing in it could be taken for one that is not there. Raises FileNotFoundError
    after LISTINGS such times.
    """
    left = LISTINGS
    while True:
        try:
            return [path for pattern in patterns for path in folder.glob(pattern)]
        except FileNotFoundError:
            if not left:
                raise
            left -= 1
