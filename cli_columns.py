"""The verbs that look after columns: `cckt cache info`, `verify`, `diff`, `pull` and `finish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache_builder.errors import UserError
from cli_cache import Data, Device, Json
from console import Answer, TerminalProgress

app = typer.Typer()

Place = Annotated[str, typer.Argument(help="The data set's folder, or the folder or URL of its columns.")]
Columns = Annotated[list[str] | None, typer.Argument(help="Columns; all that are there if none is named.")]


@app.command()
def info(data: Place, columns: Columns = None, json: Json = None) -> None:
    """What columns are: how made, of what, finished or not."""
    from cache_builder.store import column_info, list_columns

    infos = [column_info(data, name) for name in columns or list_columns(data)]
    if not infos:
        raise UserError(f"{data} holds no column; make one with cckt cache text {data} --teacher NAME.")
    answer = Answer(json)
    for one in infos:
        answer.say(*one.lines())
    answer.figures({one.manifest.spec.name: one.manifest.fields() | {"bytes": one.bytes} for one in infos})


@app.command()
def verify(
    data: Data,
    columns: Columns = None,
    sample: Annotated[int, typer.Option(help="Rows to make again with the teacher; 0 for none.")] = 64,
    teacher: Annotated[str | None, typer.Option(help="Default: the one that a column names.")] = None,
    device: Device = "auto",
    repair: Annotated[bool, typer.Option("--repair", help="Mark what is wrong to be made again.")] = False,
    json: Json = None,
) -> None:
    """Whether columns still are what they were: every byte, the index, and a sample made again."""
    from cache_builder.recompute import verify_data

    answer, figures, wrong = Answer(json), {}, []
    progress = TerminalProgress()
    for report in verify_data(
        data, columns, teacher=teacher, device=device, sample=sample, repair=repair, progress=progress
    ):
        answer.say(*report.lines())
        problems = [{"kind": problem.kind, "message": problem.message} for problem in report.problems]
        agreed = vars(report.agreement) if report.agreement else None
        figures[report.name] = {"ok": report.ok, "problems": problems, "agreement": agreed}
        wrong += [] if report.ok else [report]
    answer.figures(figures)
    if wrong:
        found = ", ".join(f"{len(report.problems)} in {report.name}" for report in wrong)
        step = (
            f"run {wrong[0].command}" if wrong[0].repaired else "--repair marks bad chunks to be made again"
        )
        raise UserError(f"{data}: found problems ({found}), expected none; {step}.")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A data set's folder.")],
    second: Annotated[Path, typer.Argument(help="Another one's, or the same.")],
    columns: Columns = None,
    against: Annotated[
        str | None, typer.Option(help="Name of the second's column where it is another one.")
    ] = None,
    json: Json = None,
) -> None:
    """In what the columns of two data sets differ, and by how much."""
    from cache_builder.store import diff_columns, list_columns

    names = columns or [name for name in list_columns(first) if name in list_columns(second)]
    if not names:
        raise UserError(f"{first} and {second} have no column of one name; name a column and --against.")
    answer, figures = Answer(json), {}
    for name in names:
        found = diff_columns((first, name), (second, against or name), progress=TerminalProgress())
        answer.heading(f"{first} {name} against {second} {against or name}")
        answer.say(*found.lines())
        agreed = vars(found.agreement) if found.agreement else None
        figures[name] = {"fields": found.fields, "same_bytes": found.same_bytes, "agreement": agreed}
    answer.figures(figures)


@app.command()
def pull(
    source: Annotated[str, typer.Argument(help="A folder or URL that holds finished columns.")],
    target: Annotated[str, typer.Argument(help="The folder or URL to copy them to.")],
    columns: Columns = None,
    workers: Annotated[int, typer.Option(help="Chunks copied together.")] = 8,
    json: Json = None,
) -> None:
    """Copy finished columns, every chunk proven on the way."""
    from cache_builder.store import pull as pull_columns

    report = pull_columns(source, target, columns, workers=workers, progress=TerminalProgress())
    answer = Answer(json)
    answer.say(
        f"{', '.join(report.columns)}: {report.fetched} chunk files copied ({report.bytes / 1e6:.1f} MB), "
        f"{report.kept} were there"
    )
    answer.figures(vars(report))


@app.command()
def finish(data: Place, columns: Columns = None, json: Json = None) -> None:
    """Close columns whose parts are all made; the last part to end does so by itself."""
    from cache_builder.store import column_info, list_columns, open_writer

    answer, figures = Answer(json), {}
    for name in columns or list_columns(data):
        manifest = open_writer(data, column_info(data, name).manifest.spec).finish()
        answer.say(f"column {name}: finished, {manifest.digest}")
        figures[name] = manifest.digest
    answer.figures(figures)
