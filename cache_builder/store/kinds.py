"""The kinds of columns: one table, `KINDS`, from which everything about a kind by its name is read.

Readers of the table: the grammar of names (`parse_name`), the command that makes a column (`repair_command`),
`cckt cache info`, `verify` and `diff`, the makers of columns (`column_spec`) and the doctor. A new kind is
one row here, one file in `columns` that makes it, and one row of `columns.recompute.REMAKE` for `verify`.

A name is `KIND`, then `-LABEL` for the column of a second teacher, then `-VIEW`: `crops`, `crops-vitl14`,
`crops-flipped`, `crops-vitl14-jitter-2`, `priors/clip-vitl14`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cckt.cache_builder.base.constants import BATCH, CROP, PRECISION, PROMPT, TAU, TEMPLATES
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.format.spec import ColumnSpec

FLIPPED = "flipped"
JITTER = "jitter"

Recipe = Mapping[str, Any]

_LABEL = re.compile(r"[a-z0-9_]+")
_AFTER_KIND = re.compile(r"(-(?P<label>[a-z0-9_]+))??(-(?P<view>flipped|jitter-[1-9][0-9]*))?")


@dataclass(frozen=True)
class Setting:
    """An option of a kind's command that decides values, and so is part of the recipe."""

    option: str
    value: Callable[[Recipe], Any]
    """Value of the option, read from a recipe; None or False if the option was not used."""
    default: Any = None


def at(*keys: str) -> Callable[[Recipe], Any]:
    """Return a function that reads the value under `keys` of a recipe; None if it is missing."""

    def read(recipe: Recipe) -> Any:
        value: Any = recipe
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return read


def _templates(recipe: Recipe) -> Any:
    name = at("templates", "name")(recipe)
    return "TEMPLATES_FILE" if name == "own" else name


def _prefilter(recipe: Recipe) -> Any:
    keep = at("prefilter", "keep")(recipe)
    return f"clip:{keep}" if keep else None


def _calibrate(recipe: Recipe) -> Any:
    return "TRAINING_DATA" if at("calibrated_on")(recipe) else None


@dataclass(frozen=True)
class ColumnKind:
    """One kind of columns."""

    name: str
    """ "crops", or "priors/clip": the first part is the verb of `cckt cache`."""
    table: str
    """Table of the rows, one of `TABLES`."""
    dtype: str
    unit: bool
    """Whether valid rows have length 1."""
    has_valid: bool
    """Whether rows have a flag."""
    takes_label: bool
    """Whether a data set may hold the columns of several teachers, each with a label."""
    views: tuple[str, ...]
    """Views in addition to the plain one: FLIPPED, JITTER (which is numbered from 1)."""
    settings: tuple[Setting, ...]
    """Options of the command, in their order there."""
    help: str
    """What a row holds, in one line."""


_TEACHER = (
    Setting("--teacher", at("teacher", "name")),
    Setting("--precision", at("teacher", "precision"), PRECISION),
)
_IMAGES = (
    *_TEACHER,
    Setting("--fast", lambda recipe: "fast" in recipe),
    Setting("--batch", at("batch"), BATCH),
)

KINDS: dict[str, ColumnKind] = {
    kind.name: kind
    for kind in (
        ColumnKind(
            name="text",
            table="concepts",
            dtype="float32",
            unit=True,
            has_valid=False,
            takes_label=True,
            views=(),
            settings=(
                *_TEACHER,
                Setting("--templates", _templates, TEMPLATES),
                Setting("--synonyms", at("synonyms")),
                Setting("--import", at("import", "file")),
            ),
            help="embedding of a concept's name by the teacher, or from an imported table",
        ),
        ColumnKind(
            name="crops",
            table="boxes",
            dtype="float16",
            unit=True,
            has_valid=True,
            takes_label=True,
            views=(FLIPPED, JITTER),
            settings=(*_IMAGES, Setting("--crop", at("crop", "rule"), CROP)),
            help="embedding of the pixels in an annotated box by the teacher",
        ),
        ColumnKind(
            name="images",
            table="images",
            dtype="float16",
            unit=True,
            has_valid=True,
            takes_label=True,
            views=(),
            settings=_IMAGES,
            help="embedding of a whole image by the teacher",
        ),
        ColumnKind(
            name="priors/clip",
            table="images x concepts",
            dtype="float32",
            unit=False,
            has_valid=True,
            takes_label=True,
            views=(),
            settings=(Setting("--tau", at("tau"), TAU),),
            help="probability of each concept in an image, from the columns images and text",
        ),
        ColumnKind(
            name="priors/mllm",
            table="images x concepts",
            dtype="float32",
            unit=False,
            has_valid=True,
            takes_label=False,
            views=(),
            settings=(
                Setting("--mllm", lambda _: True),
                Setting("--mllm-model", at("model", "name")),
                Setting("--mllm-prompt", at("prompt"), PROMPT),
                Setting("--precision", at("model", "dtype"), PRECISION),
                Setting("--prefilter", _prefilter),
                Setting("--calibrate", _calibrate),
            ),
            help="probability of each concept in an image, from the answers of a multimodal LLM",
        ),
    )
}
"""Every kind by its name."""


@dataclass(frozen=True)
class ColumnName:
    """The parts of a column's name."""

    kind: str
    """A key of `KINDS`."""
    label: str = ""
    """The user's word for a second teacher; "" for the first one."""
    view: str = ""
    """ "" for the plain view, "flipped", or "jitter-1", "jitter-2" and so on."""

    def __str__(self) -> str:
        return "-".join(part for part in (self.kind, self.label, self.view) if part)

    @property
    def jitter(self) -> int:
        """Number of the jittered view, from 1; 0 for another view."""
        return int(self.view.rpartition("-")[2]) if self.view.startswith(JITTER) else 0

    @property
    def options(self) -> str:
        """Options of `cckt cache` that give this name, each after a space."""
        view = f" --jitter {self.jitter}" if self.jitter else " --flipped" if self.view else ""
        return (f" --name {self.label}" if self.label else "") + view


def parse_name(name: str) -> ColumnName | None:
    """Return the parts of a column's name; None for a name that is of no kind."""
    kind = next((kind for kind in KINDS.values() if f"{name}-".startswith(f"{kind.name}-")), None)
    found = _AFTER_KIND.fullmatch(name, len(kind.name)) if kind else None
    if kind is None or found is None:
        return None
    label, view = found["label"] or "", found["view"] or ""
    if label and (label in (FLIPPED, JITTER) or not kind.takes_label):
        return None
    if view and view.partition("-")[0] not in kind.views:
        return None
    return ColumnName(kind.name, label, view)


def check_label(label: str) -> str:
    """Return the label; UserError if it cannot be part of a column's name. "" is the first teacher's."""
    if label and (not _LABEL.fullmatch(label) or label in (FLIPPED, JITTER)):
        raise UserError(
            f"--name {label!r} cannot be used: expected lower-case letters, digits and _, as in vitl14, and "
            f"neither {FLIPPED} nor {JITTER}; choose another."
        )
    return label


def column_spec(
    name: ColumnName, *, rows: int, width: int, chunk_rows: int, index_digest: str, recipe: Recipe
) -> ColumnSpec:
    """Return the spec of a column of the kind `name.kind`."""
    kind = KINDS[name.kind]
    return ColumnSpec(
        name=str(name),
        table=kind.table,
        rows=rows,
        width=width,
        dtype=kind.dtype,
        unit=kind.unit,
        has_valid=kind.has_valid,
        chunk_rows=chunk_rows,
        index_digest=index_digest,
        recipe=recipe,
    )


def repair_command(data: str, name: str, recipe: Recipe | None = None) -> str:
    """Return the `cckt cache ...` that makes the column `name` of `data` as `recipe` says, or completes it.

    Settings that have their default are left out. Without a recipe (there is no column yet) so are all
    others. A value that no recipe holds is in capitals for the user to fill in: the path of a file of
    templates, or of the data of --calibrate.
    """
    made_elsewhere = at("import", "made_by")(recipe or {})
    if made_elsewhere:
        table = str(at("import", "file")(recipe or {}))
        return shlex.join(["cckt", "cache", "import", data, name, table, "--made-by", str(made_elsewhere)])
    named = parse_name(name)
    kind, options = (KINDS[named.kind], named.options) if named else (None, "")
    chosen = []
    for setting in kind.settings if kind else ():
        value = setting.value(recipe or {})
        if value and value != setting.default:
            chosen.append(f" {setting.option}" + ("" if value is True else f" {shlex.quote(str(value))}"))
    verb = (kind.name if kind else name).partition("/")[0]
    return "".join((f"cckt cache {verb} {shlex.quote(data)}{options}", *chosen))
