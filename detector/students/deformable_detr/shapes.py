"""The type of a pyramid's shape, shared by all sampling implementations."""

from __future__ import annotations

Shapes = list[tuple[int, int]]
"""Height and width of each level, finest first."""
