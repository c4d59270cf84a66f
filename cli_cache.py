"""The verbs `cckt cache ...`: parse, call one function, show its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
Strict = Annotated[bool, typer.Option("--strict", help="Stop at a photo that cannot be read.")]
Part = Annotated[str | None, typer.Option(metavar="I/N", help="Make the I-th of N parts, I from 0.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a column that was made otherwise.")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="Write the figures as JSON.")]


@app.command()
def text(
    data: Data,
    teacher: Annotated[str | None, typer.Option(help="As for crops; optional with --import.")] = None,
    templates: Annotated[
        str, typer.Option(help="single, ensemble12, imagenet80, or a file with a template a line.")
    ] = "ensemble12",
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
    from cache_builder.runner import part_of
    from cache_builder.text import cache_text

    report = cache_text(
        data,
        teacher,
        templates=templates,
        synonyms=synonyms,
        device=device,
        precision=precision,
        import_file=import_file,
        part=part_of(part),
        overwrite=overwrite,
        progress=TerminalProgress(),
    )
    _tell(json, report)


@app.command()
def crops(
    data: Data,
    teacher: Teacher,
    crop: Annotated[str, typer.Option(help="box, or square: the context square round it.")] = "box",
    batch: Batch = 256,
    workers: Workers = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Annotated boxes as the teacher sees them."""
    from cache_builder.crops import cache_crops
    from cache_builder.runner import part_of

    report = cache_crops(
        data,
        teacher,
        crop=crop,
        batch=batch,
        workers=workers,
        device=device,
        precision=precision,
        strict=strict,
        part=part_of(part),
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
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Whole photos as the teacher sees them."""
    from cache_builder.images import cache_images
    from cache_builder.runner import part_of

    report = cache_images(
        data,
        teacher,
        batch=batch,
        workers=workers,
        device=device,
        precision=precision,
        strict=strict,
        part=part_of(part),
        overwrite=overwrite,
        progress=TerminalProgress(),
    )
    _tell(json, report)


@app.command()
def priors(
    data: Data,
    tau: Annotated[float, typer.Option(help="Temperature of the cosine.")] = 0.07,
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """How likely each concept is in each photo, from the columns images and text."""
    from cache_builder.priors import cache_clip_priors
    from cache_builder.runner import part_of

    report = cache_clip_priors(
        data, tau=tau, part=part_of(part), overwrite=overwrite, progress=TerminalProgress()
    )
    _tell(json, report)


def _tell(json: str | None, report: CacheReport) -> None:
    answer = Answer(json)
    answer.say(*report.lines())
    answer.figures(report.to_json())
