"""The verbs `cckt cache ...`: parse, call one function, show its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cckt.commands.console import Answer, TerminalProgress

if TYPE_CHECKING:
    from cckt.cache_builder.columns.report import CacheReport

app = typer.Typer(
    help="What the teacher knows, cached as columns: make, prove, compare.", no_args_is_help=True
)

Data = Annotated[Path, typer.Argument(help="The data set's folder.")]
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
Name = Annotated[str, typer.Option(help="Of a second teacher: the column is KIND-NAME, beside the first's.")]
Fast = Annotated[bool, typer.Option("--fast", help="Near the teacher's preprocessing; says how near.")]
Flipped = Annotated[bool, typer.Option("--flipped", help="Mirrored crops too, as crops-flipped.")]
Jitter = Annotated[int, typer.Option(help="So many views of moved boxes too, as crops-jitter-K.")]
Synonyms = Annotated[bool, typer.Option("--synonyms", help="Average over synonyms too.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at a photo that cannot be read.")]
Part = Annotated[str | None, typer.Option(metavar="I/N", help="Make the I-th of N parts, I from 0.")]
Templates = Annotated[
    str, typer.Option(help="single, ensemble12, imagenet80, or a file with a template a line.")
]
Crop = Annotated[str, typer.Option(help="box, or square: the context square round it.")]
Tau = Annotated[float, typer.Option(help="Temperature of the cosine.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a column that was made otherwise.")]
Out = Annotated[
    str | None,
    typer.Option("--out", metavar="PLACE", help="A folder or URL for the column; default: the data set's."),
]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="Write the figures as JSON.")]


@app.command()
def text(
    data: Data,
    teacher: Annotated[str | None, typer.Option(help="As for crops; optional with --import.")] = None,
    templates: Templates = "ensemble12",
    synonyms: Synonyms = False,
    name: Name = "",
    import_file: Annotated[
        Path | None, typer.Option("--import", help="A table made elsewhere: .npy, .pt or .safetensors.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    part: Part = None,
    overwrite: Overwrite = False,
    out: Out = None,
    json: Json = None,
) -> None:
    """Concepts as the teacher reads them."""
    from cckt.cache_builder.columns.text import cache_text

    report = cache_text(
        data,
        teacher,
        templates=templates,
        synonyms=synonyms,
        name=name,
        device=device,
        precision=precision,
        import_file=import_file,
        part=part_of(part),
        overwrite=overwrite,
        out=out,
        progress=TerminalProgress(),
    )
    tell(json, report)


@app.command()
def crops(
    data: Data,
    teacher: Teacher,
    crop: Crop = "box",
    flipped: Flipped = False,
    jitter: Jitter = 0,
    name: Name = "",
    fast: Fast = False,
    batch: Batch = 256,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    out: Out = None,
    json: Json = None,
) -> None:
    """Annotated boxes as the teacher sees them."""
    from cckt.cache_builder.columns.all_at_once import cache_photos

    reports = cache_photos(
        data,
        teacher,
        name=name,
        kinds=("crops",),
        crop=crop,
        flipped=flipped,
        jitter=jitter,
        fast=fast,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=part_of(part),
        overwrite=overwrite,
        out=out,
        progress=TerminalProgress(),
    )
    tell(json, *reports)


@app.command()
def images(
    data: Data,
    teacher: Teacher,
    name: Name = "",
    fast: Fast = False,
    batch: Batch = 256,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    out: Out = None,
    json: Json = None,
) -> None:
    """Whole photos as the teacher sees them."""
    from cckt.cache_builder.columns.images import cache_images

    report = cache_images(
        data,
        teacher,
        name=name,
        fast=fast,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=part_of(part),
        overwrite=overwrite,
        out=out,
        progress=TerminalProgress(),
    )
    tell(json, report)


@app.command("all")
def every(
    data: Data,
    teacher: Annotated[list[str], typer.Option(help="As for crops; several look at the photos in one pass.")],
    name: Annotated[
        list[str] | None, typer.Option(help="Of the second teacher and so on: columns KIND-NAME.")
    ] = None,
    templates: Templates = "ensemble12",
    synonyms: Synonyms = False,
    crop: Crop = "box",
    flipped: Flipped = False,
    jitter: Jitter = 0,
    fast: Fast = False,
    tau: Tau = 0.07,
    batch: Batch = 256,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    out: Out = None,
    json: Json = None,
) -> None:
    """text, crops, images and priors, every photo decoded once."""
    from cckt.cache_builder.columns.all_at_once import cache_all

    reports = cache_all(
        data,
        teacher,
        name=name or (),
        templates=templates,
        synonyms=synonyms,
        crop=crop,
        flipped=flipped,
        jitter=jitter,
        fast=fast,
        tau=tau,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=part_of(part),
        overwrite=overwrite,
        out=out,
        progress=TerminalProgress(),
    )
    tell(json, *reports)


def part_of(text: str | None) -> tuple[int, int] | None:
    """None leaves it to the runner, which then also helps where other ranks are late."""
    from cckt.cache_builder.runner import part_of as parsed

    return None if text is None else parsed(text)


def tell(json: str | None, *reports: CacheReport) -> None:
    answer = Answer(json)
    for report in reports:
        answer.say(*(line for line in report.lines() if line not in report.notes))  # these came as they arose
    figures = {report.name: report.to_json() for report in reports}
    answer.figures(figures if len(reports) > 1 else reports[0].to_json())
