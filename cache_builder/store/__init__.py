"""Columns on disk: zarr v3 groups whose chunk files are plain rows, with a manifest of digests.

Write with `open_writer`, read with `open_column`. No other room imports zarr.

    kinds.py           the kinds of columns; names of columns; the command that makes one
    noun_kinds.py      the kinds of the nouns of proposals
    settings.py        what a kind is; options of commands, read from recipes
    reader.py          read a finished column
    begin.py           begin a column in its place; what --overwrite may replace
    writer.py          write chunks, resume, finish
    claims.py          which maker makes which chunks: claims with a lease
    agreement.py       how far two versions of the same rows agree
    info.py            list the columns of a data set, describe one
    missing.py         the command that makes a missing column, with its teacher
    diff.py            compare two columns
    proven.py          rows whose chunks have the digests of the manifest
    staging.py         columns that replace an older one when they are finished
    pull.py            copy finished columns from one place to another
    origin.py          whose embeddings a column holds
    teacher_labels.py  labels of the teachers whose columns a data set holds

    format/            what a column is on disk
    verification/      check every byte of a column, mark chunks to be made again
    exchange/          columns as tables of other programs
    places/            folders and object stores, and how rows are read there
"""

from __future__ import annotations

from cckt.cache_builder.store.agreement import Agreement
from cckt.cache_builder.store.begin import OtherColumn
from cckt.cache_builder.store.claims import Claims
from cckt.cache_builder.store.diff import ColumnDiff, diff_columns
from cckt.cache_builder.store.format.manifest import Manifest
from cckt.cache_builder.store.format.spec import ColumnSpec
from cckt.cache_builder.store.info import ColumnInfo, column_info, list_columns
from cckt.cache_builder.store.kinds import (
    KINDS,
    ColumnKind,
    ColumnName,
    check_label,
    column_spec,
    parse_name,
    repair_command,
)
from cckt.cache_builder.store.missing import all_columns_command, command_for_missing
from cckt.cache_builder.store.origin import (
    Origin,
    architecture_differences,
    require_same_teacher,
    teacher_of,
)
from cckt.cache_builder.store.proven import ProvenRows
from cckt.cache_builder.store.pull import PullReport, pull
from cckt.cache_builder.store.reader import Column, open_column
from cckt.cache_builder.store.settings import Setting
from cckt.cache_builder.store.staging import promote, staged_manifest, staged_place
from cckt.cache_builder.store.teacher_labels import column_of, list_teachers, matching_label
from cckt.cache_builder.store.verification.check import Problem
from cckt.cache_builder.store.verification.verify import VerifyReport, verify_column
from cckt.cache_builder.store.writer import ColumnWriter, open_writer

__all__ = [
    "KINDS",
    "Agreement",
    "Claims",
    "Column",
    "ColumnDiff",
    "ColumnInfo",
    "ColumnKind",
    "ColumnName",
    "ColumnSpec",
    "ColumnWriter",
    "Manifest",
    "Origin",
    "OtherColumn",
    "Problem",
    "ProvenRows",
    "PullReport",
    "Setting",
    "VerifyReport",
    "all_columns_command",
    "architecture_differences",
    "check_label",
    "column_info",
    "column_of",
    "column_spec",
    "command_for_missing",
    "diff_columns",
    "list_columns",
    "list_teachers",
    "matching_label",
    "open_column",
    "open_writer",
    "parse_name",
    "promote",
    "pull",
    "repair_command",
    "require_same_teacher",
    "staged_manifest",
    "staged_place",
    "teacher_of",
    "verify_column",
]
