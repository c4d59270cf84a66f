"""Which of several teachers' columns a reader wants, where they lie side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.inspect import list_columns
from cckt.cache_builder.store.manifest import read_manifest
from cckt.cache_builder.store.naming import ColumnName, parse_name
from cckt.cache_builder.store.origin import teacher_of
from cckt.cache_builder.store.places.files import open_files


def teachers_there(data: Path | str, kind: str = "text") -> dict[str, Mapping[str, Any] | None]:
    """Label -> the teacher as it describes itself (None: an imported table), of every column of `kind` under
    `data`, finished or not; "" is the first teacher's label.
    """
    found: dict[str, Mapping[str, Any] | None] = {}
    for name in list_columns(data):
        parts = parse_name(name)
        if parts is None or parts.kind != kind or parts.view:
            continue
        manifest = read_manifest(open_files(data, name))
        if manifest is not None:
            found[parts.label] = teacher_of(manifest.spec.recipe)
    return found


def column_of(data: Path | str, kind: str, label: str = "", view: str = "") -> str:
    """The name of a teacher's column. UserError, naming the teachers that are there, where a labelled one has
    none; the first teacher's, label "", is `open_column`'s to miss.
    """
    name = str(ColumnName(kind, label, view))
    if label and name not in list_columns(data):
        there = _told(teachers_there(data, kind)) or f"no column {kind}"
        raise UserError(
            f"{data} has no column {name}, of the teacher labelled {label!r} (data.teacher); there is "
            f"{there}; choose one of these, or make it with `cckt cache all {data} --teacher NAME "
            f"--name {label}`."
        )
    return name


def label_of(data: Path | str, teacher: Mapping[str, Any] | None, wanted: str = "") -> str:
    """The label under which `data` holds the text of a run's `teacher`.

    `wanted`, the label that the run learnt from, wherever that column is there and of that teacher, and also
    where no other one is: what does not fit is then refused by name. Else the first label, in order, whose
    text was made with the very weights: a data set may hold the same teachers in another order.
    """
    if teacher is None:
        return wanted
    digest, found = teacher.get("weight_digest"), teachers_there(data)
    fits = [label for label, other in sorted(found.items()) if (other or {}).get("weight_digest") == digest]
    if wanted in fits or not fits or (wanted in found and found[wanted] is None):
        return wanted
    return fits[0]


def _told(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The labels, each with its teacher's name."""
    names = {label: (teacher or {}).get("name", "an imported table") for label, teacher in found.items()}
    return ", ".join(f"{label or 'the first'} ({name})" for label, name in sorted(names.items()))
