"""Labels of the teachers whose columns a data set holds, and which one a reader needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.format.manifest import read_manifest
from cckt.cache_builder.store.info import list_columns
from cckt.cache_builder.store.kinds import ColumnName, parse_name
from cckt.cache_builder.store.missing import all_columns_command
from cckt.cache_builder.store.origin import teacher_of
from cckt.cache_builder.store.places.files import open_files


def list_teachers(data: Path | str, kind: str = "text") -> dict[str, Mapping[str, Any] | None]:
    """Return label -> teacher, of every column of `kind` under `data`, finished or not.

    "" is the first teacher's label. The teacher is as its recipe describes it; None for an imported table.
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
    """Return the name of a teacher's column.

    Raises UserError, with the teachers that `data` holds, if a labelled column is missing. A missing column
    of the first teacher, label "", is reported by `open_column`.
    """
    name = str(ColumnName(kind, label, view))
    if label and name not in list_columns(data):
        found = _with_names(list_teachers(data, kind)) or f"no column {kind}"
        raise UserError(
            f"{data} has no column {name}, of the teacher labelled {label!r} (data.teacher); found {found}; "
            f"choose one of these, or make it with `{all_columns_command(data, 'NAME', label)}`."
        )
    return name


def matching_label(data: Path | str, teacher: Mapping[str, Any] | None, preferred: str = "") -> str:
    """Return the label under which `data` holds the text of a run's `teacher`.

    `preferred`, the label in the run's training data, is returned if that column is of the teacher, and also
    if no column is: the caller then refuses it by name. Otherwise the first label, in order, whose text was
    made with the same weights: another data set may hold the same teachers in another order.
    """
    if teacher is None:
        return preferred
    digest, found = teacher.get("weight_digest"), list_teachers(data)
    fits = [label for label, other in sorted(found.items()) if (other or {}).get("weight_digest") == digest]
    if preferred in fits or not fits or (preferred in found and found[preferred] is None):
        return preferred
    return fits[0]


def _with_names(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The labels, each with its teacher's name."""
    names = {label: (teacher or {}).get("name", "an imported table") for label, teacher in found.items()}
    return ", ".join(f"{label or 'the first'} ({name})" for label, name in sorted(names.items()))
