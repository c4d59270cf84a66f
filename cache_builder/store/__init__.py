"""Columns that prove themselves: zarr v3 groups whose chunk files are plain rows (DESIGN section 2).

Write with `open_writer`, read with `open_column`. No other room imports zarr.
"""

from __future__ import annotations

from cckt.cache_builder.store.agreement import Agreement
from cckt.cache_builder.store.check import Problem
from cckt.cache_builder.store.inspect import ColumnDiff, ColumnInfo, column_info, diff_columns, list_columns
from cckt.cache_builder.store.manifest import Manifest
from cckt.cache_builder.store.naming import ColumnName, check_label, parse_name
from cckt.cache_builder.store.origin import Origin, require_same_teacher, teacher_of
from cckt.cache_builder.store.pull import PullReport, pull
from cckt.cache_builder.store.reader import Column, open_column
from cckt.cache_builder.store.spec import ColumnSpec
from cckt.cache_builder.store.teacher_labels import column_of, label_of, teachers_there
from cckt.cache_builder.store.verify import VerifyReport, verify_column
from cckt.cache_builder.store.writer import ColumnWriter, open_writer

__all__ = [
    "Agreement",
    "Column",
    "ColumnDiff",
    "ColumnInfo",
    "ColumnName",
    "ColumnSpec",
    "ColumnWriter",
    "Manifest",
    "Origin",
    "Problem",
    "PullReport",
    "VerifyReport",
    "check_label",
    "column_info",
    "column_of",
    "diff_columns",
    "label_of",
    "list_columns",
    "open_column",
    "open_writer",
    "parse_name",
    "pull",
    "require_same_teacher",
    "teacher_of",
    "teachers_there",
    "verify_column",
]
