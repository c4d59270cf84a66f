"""Several teachers at once, and the labels in the names of their columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cckt.cache_builder.base.constants import PRECISION
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.options import as_teacher
from cckt.cache_builder.store import check_label
from cckt.cache_builder.teacher.clip import Teacher

Teachers = str | Teacher | Sequence[str | Teacher]


def load_teachers(
    teacher: Teachers, name: str | Sequence[str] = (), device: str = "auto", precision: str = PRECISION
) -> dict[str, Teacher]:
    """Return label -> loaded teacher, in order; see `label_teachers`."""
    given = [teacher] if isinstance(teacher, str | Teacher) else list(teacher)
    names = [one if isinstance(one, str) else one.name for one in given]
    labels = label_teachers(names, [name] if isinstance(name, str) else name)
    return {label: as_teacher(one, device, precision) for label, one in zip(labels, given, strict=True)}


def label_teachers(teachers: Sequence[str], names: Sequence[str] = ()) -> list[str]:
    """Return the label of each teacher in the names of its columns; "" is no label.

    With a name for every teacher these are the labels; with one name less, or none, the first teacher has no
    label. Without names the others are labelled by architecture: vitl14 for ViT-L-14/openai.

    Raises UserError if names and teachers do not fit, or two labels are the same.
    """
    if not teachers:
        raise UserError("no teacher is named; give --teacher NAME, once for each teacher.")
    if not names:
        labels = ["", *(_short(teacher) for teacher in teachers[1:])]
    elif len(names) in (len(teachers), len(teachers) - 1):
        labels = [*([""] if len(names) < len(teachers) else []), *names]
    else:
        raise UserError(
            f"--name was given {len(names)} times for {len(teachers)} teachers; give it once for each, or "
            "for each but the first."
        )
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(
            f"two teachers would both make the columns {twice!r}; give them names with --name, once for each "
            "teacher but the first."
        )
    return [check_label(label) for label in labels]


def _short(teacher: str) -> str:
    architecture = teacher.removeprefix("local-dir:").rstrip("/")
    architecture = architecture.rpartition("/")[2] if ":" in teacher[:10] else architecture.partition("/")[0]
    return re.sub(r"[^a-z0-9_]", "", architecture.lower())
