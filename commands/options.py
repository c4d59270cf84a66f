"""Arguments, options and defaults that several commands share.

`cckt --help` reads this module, so it imports nothing heavy. The defaults repeat those of the library, whose
modules import torch; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.errors import UserError

DEVICE = "auto"
JITTER = 0
PROTOCOL = "auto"

# Data sets, columns and runs.
Data = Annotated[Path, typer.Argument(help="Data set folder.")]
Place = Annotated[str, typer.Argument(help="Data set folder, or a folder or URL that holds columns.")]
Columns = Annotated[list[str] | None, typer.Argument(help="Column names. Default: all.")]
Run = Annotated[Path, typer.Argument(help="Run folder.")]
NewData = Annotated[Path, typer.Option("--out", help="Data set folder to create.")]
Keep = Annotated[str, typer.Option(help="all, or base to drop every box that training must not see.")]

# The teacher and how columns are made.
TEACHER_HELP = (
    "CLIP model: MODEL/PRETRAINED of open_clip, MODEL/random:SEED, local-dir:FOLDER, or shapeworld."
)
Teacher = Annotated[str, typer.Option(help=TEACHER_HELP)]
RunTeacher = Annotated[str | None, typer.Option(help="CLIP model. Default: the teacher of the run.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(help="Precision of the model: fp32, bf16 or fp16.")]
Batch = Annotated[int, typer.Option(help="Images per forward pass of the teacher.")]
Workers = Annotated[
    int | None, typer.Option(help="Threads that decode images. Default: one per core, at most 8.")
]
Processes = Annotated[bool, typer.Option("--processes", help="Decode in processes instead of threads.")]
Name = Annotated[str, typer.Option(help="Label of a second teacher; the column is named KIND-NAME.")]
Fast = Annotated[
    bool, typer.Option("--fast", help="Approximate preprocessing; the report measures the difference.")
]
Flipped = Annotated[bool, typer.Option("--flipped", help="Also cache mirrored crops, as crops-flipped.")]
Jitter = Annotated[int, typer.Option(help="Also cache K views of shifted boxes, as crops-jitter-1 to K.")]
Synonyms = Annotated[bool, typer.Option("--synonyms", help="Average over the synonyms of a concept.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable image.")]
Part = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Maker I of N, counted from 0; makers share the chunks."),
]
Templates = Annotated[
    str, typer.Option(help="single, ensemble12, imagenet80, or a file with one template per line.")
]
Crop = Annotated[
    str, typer.Option(help="box, square for a larger square around the box, or oadp: ViTs see the box in it.")
]
Of = Annotated[
    str, typer.Option(metavar="TABLE", help="Rows: boxes, proposals, or proposals-NAME for a second table.")
]
Tau = Annotated[float, typer.Option(help="Temperature of the cosine.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a column that was made with other options.")
]
REUSE = "same"
Reuse = Annotated[
    str,
    typer.Option(
        help="Rows of unchanged photos and boxes: same copies them if rows made here have the same bytes, "
        "any copies them in any case, none makes every row."
    ),
]
ReuseFrom = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="Data set or URL with the older column. Default: the place of the column itself.",
    ),
]
ColumnOut = Annotated[
    str | None,
    typer.Option("--out", metavar="PLACE", help="Folder or URL of the column. Default: the data set folder."),
]

# Priors, scores and results.
Rho = Annotated[
    float | None,
    typer.Option(help="Smallest probability that counts as present. Default: that of the run or recipe."),
]
Limit = Annotated[
    int | None, typer.Option(help="Most present concepts per image. Default: that of the run or recipe.")
]
Priors = Annotated[
    str | None,
    typer.Option(help="Source of priors: clip, mllm, oracle, corrupted or none. Default: the run's."),
]
Classification = Annotated[
    str | None, typer.Option(help="Score: similarity, head or product. Default: the run's.")
]
Protocol = Annotated[
    str,
    typer.Option(help="ov-coco, ov-lvis, coco, objects365, custom, or auto to choose it from the data set."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.OPTION=VALUE", help="Change one option of the recipe; repeatable."
    ),
]
Confirm = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="K",
        help="Let the teacher look at the crops of the K best boxes of a photo: slower, surer; 0 for none.",
    ),
]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write the figures as JSON; - is stdout.")
]


def parse_part(text: str | None, exact: bool = False) -> tuple[int, int] | None:
    """Return (i, n) of `--part I/N`; None lets the runner share the work among ranks.

    exact: the value of `--exact-part`. Raises UserError for another form.
    """
    from cckt.cache_builder.runner import ExactPart, part_of

    if text is None:
        if exact:
            raise UserError("--exact-part needs a part; add --part I/N, or remove it.")
        return None
    return ExactPart(part_of(text)) if exact else part_of(text)


def refuse_unused(options: Mapping[str, object], reason: str) -> None:
    """Raise UserError for the first option that was passed but has no effect.

    options: option -> its value, None if it was not passed. reason: completes "--option ...".
    """
    for option, value in options.items():
        if value is not None:
            raise UserError(f"{option} {reason}")


def changed(value: object, default: object) -> object:
    """Return `value`, or None if it is the default: an option that was not passed."""
    return None if value == default else value
