"""`cckt cache info`, `verify`, `diff`, `pull` and `finish`: work on existing columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.errors import UserError, counted
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import (
    DEVICE,
    Columns,
    Data,
    Device,
    Json,
    Place,
)


def info(data: Place, columns: Columns = None, json: Json = None) -> None:
    """Show how columns were made and whether they are finished."""
    from cckt.cache_builder.store import all_columns_command, column_info, list_columns

    infos = [column_info(data, name) for name in columns or list_columns(data)]
    if not infos:
        raise UserError(f"{data} holds no column; make them with {all_columns_command(data)}")
    answer = Answer(json)
    for one in infos:
        answer.lines(*one.lines())
    answer.figures({one.manifest.spec.name: one.manifest.fields() | {"bytes": one.bytes} for one in infos})


def verify(
    data: Data,
    columns: Columns = None,
    sample: Annotated[
        int, typer.Option(help="Rows per column to recompute with the teacher; 0 for none.")
    ] = 64,
    teacher: Annotated[
        str | None, typer.Option(help="CLIP model. Default: the one in the recipe of a column.")
    ] = None,
    device: Device = DEVICE,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mark bad chunks as missing, to be made again.")
    ] = False,
    json: Json = None,
) -> None:
    """Check every byte of columns and of the index, and a recomputed sample."""
    from cckt.cache_builder.columns.recompute import verify_data
    from cckt.cache_builder.index import index_problems, open_index

    if sample < 0:
        raise UserError(f"--sample {sample}: expected a number of rows; 0 recomputes none.")
    answer, figures = Answer(json), {}
    found = index_problems(open_index(data))
    answer.lines(*(f"{data / 'index'}: {problem}" for problem in found))
    figures["index"] = {"ok": not found, "problems": [{"kind": "index", "message": one} for one in found]}
    steps = [index_step(data, found)] if found else []
    counts = [f"{len(found)} in the index"] if found else []
    progress = TerminalProgress()
    for report in verify_data(
        data, columns, teacher=teacher, device=device, sample=sample, repair=repair, progress=progress
    ):
        answer.lines(*report.lines())
        problems = [{"kind": problem.kind, "message": problem.message} for problem in report.problems]
        agreement = vars(report.agreement) if report.agreement else None
        figures[report.name] = {"ok": report.ok, "problems": problems, "agreement": agreement}
        if not report.ok:
            counts.append(f"{len(report.problems)} in {report.name}")
            steps.append(report.step)
    answer.figures(figures)
    if steps:
        raise UserError(f"{data}: found problems ({', '.join(counts)}), expected none; {steps[0]}.")


def index_step(data: Path, problems: Sequence[str]) -> str:
    """Return what ends the problems of an index."""
    from cckt.cache_builder.index import FOREIGN, index_command

    if all(problem.endswith(FOREIGN) for problem in problems):
        return f"move the files that do not belong to it out of {data / 'index'}"
    return (
        f"build the index again with `{index_command(data)}` and its other options: columns of the same "
        "index "
        "stay valid"
    )


def diff(
    first: Annotated[Path, typer.Argument(help="Data set folder.")],
    second: Annotated[Path, typer.Argument(help="Data set folder to compare it with, or the same one.")],
    columns: Columns = None,
    against: Annotated[
        str | None, typer.Option(help="Name of the column in SECOND, if it differs from that in FIRST.")
    ] = None,
    json: Json = None,
) -> None:
    """Compare columns of two data sets: recipes, bytes and values."""
    from cckt.cache_builder.store import diff_columns, list_columns

    names = columns or [name for name in list_columns(first) if name in list_columns(second)]
    if not names:
        raise UserError(
            f"{first} and {second} have no column name in common; name a column and --against another."
        )
    answer, figures = Answer(json), {}
    for name in names:
        found = diff_columns((first, name), (second, against or name), progress=TerminalProgress())
        answer.heading(f"{first} {name} against {second} {against or name}")
        answer.lines(*found.lines())
        agreement = vars(found.agreement) if found.agreement else None
        figures[name] = {"fields": found.fields, "same_bytes": found.same_bytes, "agreement": agreement}
    answer.figures(figures)


def pull(
    source: Annotated[str, typer.Argument(help="Folder or URL that holds finished columns.")],
    target: Annotated[str, typer.Argument(help="Folder or URL to copy them to.")],
    columns: Columns = None,
    workers: Annotated[int, typer.Option(help="Chunks copied in parallel.")] = 8,
    json: Json = None,
) -> None:
    """Copy finished columns and check the digest of every chunk."""
    from cckt.cache_builder.store import pull as pull_columns

    report = pull_columns(source, target, columns, workers=workers, progress=TerminalProgress())
    answer = Answer(json)
    answer.lines(
        f"{', '.join(report.columns)}: {counted(report.fetched, 'chunk file')} copied "
        f"({report.bytes / 1e6:.1f} MB), "
        f"{report.kept} already present"
    )
    answer.figures(vars(report))


def finish(data: Place, columns: Columns = None, json: Json = None) -> None:
    """Finish columns whose parts are all made; the last part normally does this itself."""
    from cckt.cache_builder.columns.growth.tables import put_in_place
    from cckt.cache_builder.store import (
        column_info,
        list_columns,
        open_writer,
        staged_manifest,
        staged_place,
    )

    answer, figures = Answer(json), {}
    for name in columns or sorted({*list_columns(data), *list_columns(staged_place(data))}):
        growing = staged_manifest(data, name)  # replaces an older column
        spec = growing.spec if growing else column_info(data, name).manifest.spec
        manifest = open_writer(data, spec, staged=growing is not None).finish()
        if growing:
            put_in_place(Path(data), data, name)
        answer.lines(f"column {name}: finished, {manifest.digest}")
        figures[name] = manifest.digest
    answer.figures(figures)
