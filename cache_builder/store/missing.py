"""The command that makes a missing column: it runs as it stands, with its teacher and what it is made "
"from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cckt.cache_builder.base.constants import EXAMPLE_TEACHER, SHAPEWORLD
from cckt.cache_builder.base.data_cards import is_shapeworld, teacher_of_finds
from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.store.format.manifest import read_manifest
from cckt.cache_builder.store.kinds import ColumnName, parse_name, repair_command
from cckt.cache_builder.store.places.files import open_files

OF_ALL = ("text", "crops", "images", "priors/clip")
"""Kinds that `cckt cache all` makes."""
SOURCES = {"priors/clip": ("text", "images")}
"""Kind -> kinds that it is made from, if the command does not make them too."""


def command_for_missing(data: Path | str, name: str, teacher: str = "") -> str:
    """Return the command that makes the column `name`, which `data` lacks, after the columns it is made from.

    It names the teacher of the other columns with its label, else `teacher`, else an example; TEACHER for an
    unknown teacher of a label. If none of the teacher's columns is there yet, it makes all of them. What only
    the user knows is in capitals.
    """
    named = parse_name(name)
    if named is None:
        return repair_command(str(data), name)
    if named.kind == "proposals/boxes":
        return f"{repair_command(str(data), name)} --from RUN"
    known = (
        _known_teacher(data, named.label) or teacher or ("TEACHER" if named.label else example_teacher(data))
    )
    present = {kind for kind in OF_ALL if _exists(data, ColumnName(kind, named.label))}
    if named.kind in OF_ALL and not present:
        return all_columns_command(data, known, named.label)
    missing = [kind for kind in SOURCES.get(named.kind, ()) if kind not in present]
    wanted = [*(str(ColumnName(kind, named.label)) for kind in missing), name]
    return " && ".join(repair_command(str(data), one, teacher=known) for one in wanted)


def all_columns_command(data: Path | str, teacher: str = "", label: str = "") -> str:
    """Return the command that makes all columns of a teacher; without a teacher it names an example."""
    name = f" --name {quoted(label)}" if label else ""
    return f"cckt cache all {quoted(data)} --teacher {quoted(teacher or example_teacher(data))}{name}"


def example_teacher(data: Path | str) -> str:
    """Return the teacher to name in a hint: shapeworld's for its data sets, for pseudo boxes that of the run
    which found them, else an open_clip model."""
    if is_shapeworld(Path(data)):
        return SHAPEWORLD
    return teacher_of_finds(Path(data)) or EXAMPLE_TEACHER


def _known_teacher(data: Path | str, label: str) -> str:
    """Return the name of the teacher of the columns with a label; "" if none records one."""
    for kind in ("text", "crops", "images"):
        with suppress(UserError):
            manifest = read_manifest(open_files(data, str(ColumnName(kind, label))))
            teacher = None if manifest is None else manifest.spec.recipe.get("teacher")
            if isinstance(teacher, Mapping) and isinstance(teacher.get("name"), str):
                return str(teacher["name"])
    return ""


def _exists(data: Path | str, name: ColumnName) -> bool:
    with suppress(UserError):
        return read_manifest(open_files(data, str(name))) is not None
    return True  # and cannot be read
