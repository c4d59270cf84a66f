"""The verbs `cckt cache ...`: parse, call one function, show its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache_builder.errors import UserError
from console import Answer, TerminalProgress

if TYPE_CHECKING:
    from cache_builder.report import CacheReport

app = typer.Typer(
    help="What the teacher knows, cached as columns: make, prove, compare.", no_args_is_help=True
)

Data = Annotated[Path, typer.Argument(help="The data set's folder.")]
Columns = Annotated[list[str] | None, typer.Argument(help="Columns; all that are there if none is named.")]
Teacher = Annotated[
    str,
    typer.Option(
        help="MODEL/PRETRAINED as open_clip names them, MODEL/random:SEED, local-dir:PATH, shapeworld."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(help="What the teacher computes in: fp32, bf16 or fp16.")]
Batch = Annotated[int, typer.Option(help="Pictures that the teacher looks at together.")]
Workers = Annotated[int | None, typer.Option(help="Threads that decode; default one a core, at most 8.")]
Processes = Annotated[bool, typer.Option("--processes", help="Decode in processes instead of threads.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at a photo that cannot be read.")]
Part = Annotated[str | None, typer.Option(metavar="I/N", help="Make the I-th of N parts, I from 0.")]
Templates = Annotated[
    str, typer.Option(help="single, ensemble12, imagenet80, or a file with a template a line.")
]
Crop = Annotated[str, typer.Option(help="box, or square: the context square round it.")]
Tau = Annotated[float, typer.Option(help="Temperature of the cosine.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a column that was made otherwise.")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="Write the figures as JSON.")]


@app.command()
def text(
    data: Data,
    teacher: Annotated[str | None, typer.Option(help="As for crops; optional with --import.")] = None,
    templates: Templates = "ensemble12",
    synonyms: Annotated[bool, typer.Option("--synonyms", help="Average over synonyms too.")] = False,
    import_file: Annotated[
        Path | None, typer.Option("--import", help="A table made elsewhere: .npy, .pt or .safetensors.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Concepts as the teacher reads them."""
    from cache_builder.text import cache_text

    report = cache_text(
        data,
        teacher,
        templates=templates,
        synonyms=synonyms,
        device=device,
        precision=precision,
        import_file=import_file,
        part=_part(part),
        overwrite=overwrite,
        progress=TerminalProgress(),
    )
    _tell(json, report)


@app.command()
def crops(
    data: Data,
    teacher: Teacher,
    crop: Crop = "box",
    batch: Batch = 256,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Annotated boxes as the teacher sees them."""
    from cache_builder.crops import cache_crops

    report = cache_crops(
        data,
        teacher,
        crop=crop,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=_part(part),
        overwrite=overwrite,
        progress=TerminalProgress(),
    )
    _tell(json, report)


@app.command()
def images(
    data: Data,
    teacher: Teacher,
    batch: Batch = 256,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Whole photos as the teacher sees them."""
    from cache_builder.images import cache_images

    report = cache_images(
        data,
        teacher,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=_part(part),
        overwrite=overwrite,
        progress=TerminalProgress(),
    )
    _tell(json, report)


@app.command()
def priors(
    data: Data,
    tau: Tau = 0.07,
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """How likely each concept is in each photo, from the columns images and text."""
    from cache_builder.priors import cache_clip_priors

    report = cache_clip_priors(
        data, tau=tau, part=_part(part), overwrite=overwrite, progress=TerminalProgress()
    )
    _tell(json, report)


@app.command("all")
def every(
    data: Data,
    teacher: Teacher,
    templates: Templates = "ensemble12",
    crop: Crop = "box",
    tau: Tau = 0.07,
    batch: Batch = 256,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """text, crops, images and priors, every photo decoded once."""
    from cache_builder.onepass import cache_all

    reports = cache_all(
        data,
        teacher,
        templates=templates,
        crop=crop,
        tau=tau,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=_part(part),
        overwrite=overwrite,
        progress=TerminalProgress(),
    )
    _tell(json, *reports)


@app.command()
def info(data: Data, columns: Columns = None, json: Json = None) -> None:
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
def finish(data: Data, columns: Columns = None, json: Json = None) -> None:
    """Close columns whose parts are all made; the last part to end does so by itself."""
    from cache_builder.store import column_info, list_columns, open_writer

    answer, figures = Answer(json), {}
    for name in columns or list_columns(data):
        manifest = open_writer(data, column_info(data, name).manifest.spec).finish()
        answer.say(f"column {name}: finished, {manifest.digest}")
        figures[name] = manifest.digest
    answer.figures(figures)


def _part(text: str | None) -> tuple[int, int] | None:
    """None leaves it to the runner, which then also helps where other ranks are late."""
    from cache_builder.runner import part_of

    return None if text is None else part_of(text)


def _tell(json: str | None, *reports: CacheReport) -> None:
    answer = Answer(json)
    for report in reports:
        answer.say(*(line for line in report.lines() if line not in report.notes))  # these came as they arose
    figures = {report.name: report.to_json() for report in reports}
    answer.figures(figures if len(reports) > 1 else reports[0].to_json())
