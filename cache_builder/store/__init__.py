"""Columns that prove themselves: zarr v3 groups whose chunk files are plain rows (DESIGN section 2).

Write with `open_writer`, read with `open_column`. No other room imports zarr.
"""

from __future__ import annotations

from cache_builder.store.manifest import Manifest
from cache_builder.store.reader import Column, open_column
from cache_builder.store.spec import ColumnSpec
from cache_builder.store.writer import ColumnWriter, open_writer

__all__ = [
    "Column",
    "ColumnSpec",
    "ColumnWriter",
    "Manifest",
    "open_column",
    "open_writer",
]
