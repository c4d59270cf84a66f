"""`cckt cache export`, `import` and `plan`: tables of other programs, and what columns will cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.constants import BATCH, CROP, PRECISION
from cckt.cache_builder.base.errors import counted
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import (
    DEVICE,
    Batch,
    Crop,
    Data,
    Device,
    Fast,
    Json,
    Overwrite,
    Precision,
    Teacher,
    Workers,
)

Column = Annotated[str, typer.Argument(help="Column name.")]


def export_table(
    data: Data,
    column: Column,
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: COLUMN.parquet or COLUMN.npy, here.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="parquet (needs cckt[parquet]) or npy.")] = "parquet",
    json: Json = None,
) -> None:
    """Write a column as a Parquet table, or as .npy files, with the ids, names and boxes of its rows."""
    from cckt.cache_builder.columns.exchange.column_out import export_column

    path = out or Path(f"{column.replace('/', '-')}.{form}")
    files = export_column(data, column, path, form, TerminalProgress())
    sizes = {str(file): file.stat().st_size for file in files}
    answer = Answer(json)
    answer.lines(*(f"{file}: {size / 1e6:.1f} MB" for file, size in sizes.items()))
    answer.figures({"column": column, "files": sizes})


def import_table(
    data: Data,
    column: Annotated[str, typer.Argument(help="crops or images, or one with a label: crops-mine.")],
    table: Annotated[Path, typer.Argument(help="Table of ids and vectors, .parquet or .npy.")],
    made_by: Annotated[
        str, typer.Option(help="How the vectors were made, in words: model, weights, preprocessing.")
    ],
    teacher: Annotated[
        str | None, typer.Option(help="CLIP model that made the vectors, if it can be loaded here.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="Ids of the rows of a .npy table, as .npy.")] = None,
    id_name: Annotated[
        str | None,
        typer.Option("--id", help="Column of the ids. Default: annotation_id (crops) or image_id (images)."),
    ] = None,
    vector_name: Annotated[str, typer.Option("--vector", help="Column of the vectors.")] = "vector",
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave rows that the table lacks without a value.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Make a column from a table of vectors that were made elsewhere."""
    from cckt.cache_builder.columns.exchange.column_in import import_column

    manifest = import_column(
        data,
        column,
        table,
        made_by=made_by,
        teacher=teacher,
        ids=ids,
        id_name=id_name,
        vector_name=vector_name,
        partial=partial,
        overwrite=overwrite,
        progress=TerminalProgress(),
    )
    answer = Answer(json)
    rows, invalid = manifest.spec.rows, manifest.invalid
    answer.lines(f"column {column}: {counted(rows, 'row')}, {invalid} without a value", manifest.digest)
    answer.figures({"name": column, "rows": rows, "invalid": invalid, "digest": manifest.digest})


def plan(
    data: Data,
    teacher: Teacher,
    crop: Crop = CROP,
    fast: Fast = False,
    batch: Batch = BATCH,
    workers: Workers = None,
    device: Device = DEVICE,
    precision: Precision = PRECISION,
    json: Json = None,
) -> None:
    """Show what cckt cache all would make and how long it would take; writes nothing."""
    from cckt.cache_builder.columns.plan import lines_of, plan_columns

    plans = plan_columns(
        data,
        teacher,
        crop=crop,
        fast=fast,
        batch=batch,
        workers=workers,
        device=device,
        precision=precision,
    )
    answer = Answer(json)
    answer.lines(*lines_of(plans))
    answer.figures({one.name: one.to_json() for one in plans})
