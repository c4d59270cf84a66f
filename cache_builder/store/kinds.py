"""The kinds of columns: one table, `KINDS`, from which everything about a kind by its name is read.

Readers of the table: the grammar of names (`parse_name`), the command that makes a column (`repair_command`),
`cckt cache info`, `verify` and `diff`, the makers of columns (`column_spec`) and the doctor. A new kind is
one row here, one file in `columns` that makes it, and one row of `columns.recompute.REMAKE` for `verify`.

A name is `KIND`, then `-LABEL` for the column of a second teacher, then `-VIEW`: `crops`, `crops-vitl14`,
`crops-flipped`, `crops-vitl14-jitter-2`, `priors/clip-vitl14`. A proposals table and the columns over it are
in one folder, with a label for a second table: `proposals/boxes`, `proposals/crops-vitl14`,
`proposals-owl/boxes`, `proposals-owl/crops-vitl14`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

from cckt.cache_builder.base.constants import (
    BATCH,
    CROP,
    MIN_SIDE,
    NMS,
    PRECISION,
    PROMPT,
    PROPOSAL_BATCH,
    SAW_NOVEL,
    TAU,
    TEMPLATES,
    TOP,
)
from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.store.format.spec import OVER_PROPOSALS, ColumnSpec
from cckt.cache_builder.store.noun_kinds import NOUN_KINDS
from cckt.cache_builder.store.settings import (
    ColumnKind as ColumnKind,
)
from cckt.cache_builder.store.settings import (
    Recipe,
    Setting,
    at,
    calibrate_of,
    prefilter_of,
    source_of,
    stated_on_maker,
    templates_of,
)

FLIPPED = "flipped"
JITTER = "jitter"
PROPOSALS = "proposals"
"""Folder of the proposals table and of the columns over it."""

_LABEL = re.compile(r"[a-z0-9_]+")
_AFTER_KIND = re.compile(r"(-(?P<label>[a-z0-9_]+))??(-(?P<view>flipped|jitter-[1-9][0-9]*))?")


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
                Setting("--templates", templates_of, TEMPLATES),
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
                Setting("--prefilter", prefilter_of),
                Setting("--calibrate", calibrate_of),
            ),
            help="probability of each concept in an image, from the answers of a multimodal LLM",
        ),
        ColumnKind(
            name="proposals/boxes",
            table="images",
            dtype="float32",
            unit=False,
            has_valid=True,
            takes_label=False,
            views=(),
            settings=(
                Setting("--from", source_of("run", "RUN")),
                Setting("--detector", source_of("detector")),
                Setting("--import", source_of("import", "FILE")),
                Setting("--words", lambda recipe: ", ".join(at("provenance", "words")(recipe) or ())),
                Setting("--trained-on", stated_on_maker("trained_on")),
                Setting("--saw-novel", stated_on_maker("saw_novel"), SAW_NOVEL),
                Setting("--top", at("selection", "top"), TOP),
                Setting("--nms", at("selection", "nms"), NMS),
                Setting("--min-side", at("selection", "min_side"), MIN_SIDE),
                Setting("--precision", at("detector", "precision"), PRECISION),
                Setting("--batch", at("batch"), PROPOSAL_BATCH),
            ),
            help="best class-agnostic regions of an image: left, top, right, bottom, score, repeats, K times",
        ),
        ColumnKind(
            name="proposals/crops",
            table="proposals",
            dtype="float16",
            unit=True,
            has_valid=True,
            takes_label=True,
            views=(FLIPPED, JITTER),
            settings=(*_IMAGES, Setting("--crop", at("crop", "rule"), CROP)),
            help="embedding of the pixels in a proposal by the teacher",
            verb="crops",
        ),
        *NOUN_KINDS,
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
    of: str = ""
    """The user's word for a second proposals table; "" for the first one, and for kinds outside of
    `proposals/`."""

    def __str__(self) -> str:
        folder, slash, last = self.kind.partition("/")
        kind = f"{folder}-{self.of}{slash}{last}" if self.of else self.kind
        return "-".join(part for part in (kind, self.label, self.view) if part)

    @property
    def jitter(self) -> int:
        """Number of the jittered view, from 1; 0 for another view."""
        return int(self.view.rpartition("-")[2]) if self.view.startswith(JITTER) else 0

    @property
    def options(self) -> str:
        """Options of `cckt cache` that give this name, each after a space."""
        view = f" --jitter {self.jitter}" if self.jitter else " --flipped" if self.view else ""
        of = ""
        if KINDS[self.kind].table in OVER_PROPOSALS:
            of = f" --of {PROPOSALS}" + (f"-{self.of}" if self.of else "")
        label = self.of if self.kind == f"{PROPOSALS}/boxes" else self.label
        return of + (f" --name {label}" if label else "") + view


def parse_name(name: str) -> ColumnName | None:
    """Return the parts of a column's name; None for a name that is of no kind."""
    if name.startswith(f"{PROPOSALS}-"):
        of, slash, last = name.removeprefix(f"{PROPOSALS}-").partition("/")
        inner = parse_name(f"{PROPOSALS}/{last}") if slash and _is_label(of) else None
        return None if inner is None else replace(inner, of=of)
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
    if label and not _is_label(label):
        raise UserError(
            f"--name {label!r} cannot be used: expected lower-case letters, digits and _, as in vitl14, and "
            f"neither {FLIPPED} nor {JITTER}; choose another."
        )
    return label


def _is_label(label: str) -> bool:
    return _LABEL.fullmatch(label) is not None and label not in (FLIPPED, JITTER)


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


def repair_command(data: str, name: str, recipe: Recipe | None = None, teacher: str = "TEACHER") -> str:
    """Return the `cckt cache ...` that makes the column `name` of `data` as `recipe` says, or completes it.

    Settings that have their default are left out. Without a recipe (there is no column yet) so are all
    others. A value that no recipe holds is in capitals for the user to fill in: the path of a file of
    templates, or of the data of --calibrate. teacher: the one without a recipe.
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
        if recipe is None and setting.option == "--teacher":
            value = teacher
        if value and value != setting.default:
            chosen.append(f" {setting.option}" + ("" if value is True else f" {quoted(value)}"))
    verb = (kind and kind.verb) or (kind.name if kind else name).partition("/")[0]
    return "".join((f"cckt cache {verb} {quoted(data)}{options}", *chosen))
