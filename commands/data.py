"""`cckt data index` and `cckt data shapeworld`: make a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import Json, Keep, NewData


def index(
    annotations: Annotated[
        list[Path],
        typer.Option(
            help="JSON file in COCO format: COCO, LVIS, Objects365 or your own. Repeat it to merge files."
        ),
    ],
    out: NewData,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that the file names start from. Without it only detections can be scored."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="coco-48-17, lvis, all-base, or a JSON file that names the base concepts.")
    ] = "all-base",
    keep: Keep = "all",
    exif: Annotated[
        str,
        typer.Option(
            help="Whether boxes refer to photos as their EXIF orientation turns them: apply, ignore, or auto."
        ),
    ] = "auto",
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Scale the boxes of photos that were resized.")
    ] = False,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Repair what can only mean one thing, and list the repairs.")
    ] = False,
    json: Json = None,
) -> None:
    """Build the tables of a data set from its annotations."""
    from cckt.cache_builder.index import build_index

    report = build_index(
        annotations, images, out, split, keep, TerminalProgress(), exif=exif, rescale=rescale, lenient=lenient
    )
    answer = Answer(json)
    answer.lines(*report.lines())
    if images is None:
        answer.lines("no images: this data set serves cckt eval --detections only; --images adds the rest")
    answer.figures(report.to_json())


def shapeworld(
    photos: Annotated[int, typer.Option(help="Number of photos.")],
    out: NewData,
    seed: Annotated[int, typer.Option(help="Seed; a photo depends only on the seed and its number.")] = 1,
    keep: Keep = "all",
    workers: Annotated[int | None, typer.Option(help="Processes that render. Default: one per core.")] = None,
    json: Json = None,
) -> None:
    """Render a shapeworld data set: photos, COCO annotations, split and index."""
    from cckt.shapeworld.dataset import make_dataset

    report = make_dataset(out, photos, seed, keep=keep, workers=workers, progress=TerminalProgress())
    answer = Answer(json)
    answer.lines(*report.lines())
    answer.figures(report.to_json())
