"""The verbs `cckt cache priors`, and `info`, `verify`, `diff`, `pull`, `finish`, which look after columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cckt.cache_builder.base.errors import UserError
from cckt.commands.cache import (
    Data,
    Device,
    Json,
    Name,
    Out,
    Overwrite,
    Part,
    Precision,
    Strict,
    Tau,
    Workers,
    part_of,
    tell,
)
from cckt.commands.console import Answer, TerminalProgress

if TYPE_CHECKING:
    from cckt.detector.config.config import PriorConfig

app = typer.Typer()

Place = Annotated[str, typer.Argument(help="The data set's folder, or the folder or URL of its columns.")]
Columns = Annotated[list[str] | None, typer.Argument(help="Columns; all that are there if none is named.")]

Rho = Annotated[
    float | None, typer.Option(help="Least probability that counts as present; default the one in use.")
]
Limit = Annotated[int | None, typer.Option(help="Most concepts a photo; default the one in use.")]


@app.command()
def priors(
    data: Data,
    tau: Tau = 0.07,
    name: Name = "",
    mllm: Annotated[bool, typer.Option("--mllm", help="Ask a multimodal LLM instead of CLIP.")] = False,
    mllm_model: Annotated[
        str | None, typer.Option(help="Hub id or folder; default shapeworld's own, or a small one.")
    ] = None,
    mllm_prompt: Annotated[str | None, typer.Option(help="The question, with {concept}.")] = None,
    block: Annotated[int | None, typer.Option(help="Questions at a time; default as many as pay.")] = None,
    prefilter: Annotated[
        str | None, typer.Option(metavar="clip:K", help="Ask about the K that CLIP ranks first.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Training data on whose base concepts answers are calibrated.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the model's own code.")
    ] = False,
    workers: Workers = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    strict: Strict = False,
    part: Part = None,
    overwrite: Overwrite = False,
    out: Out = None,
    report: Annotated[
        bool, typer.Option("--report", help="Measure all priors of the data set against its annotations.")
    ] = False,
    rho: Rho = None,
    limit: Limit = None,
    json: Json = None,
) -> None:
    """How likely each concept is in each photo: by the columns images and text, or by a multimodal LLM."""
    from cckt.cache_builder.columns.clip_priors import cache_clip_priors
    from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors
    from cckt.cache_builder.mllm.questions import PROMPT

    if not report and (rho is not None or limit is not None):
        raise UserError(
            "--rho and --limit are thresholds of the report, which is not asked for; add --report."
        )
    if report and out is not None:
        raise UserError(
            f"--report reads the columns of {data}, but --out puts this one elsewhere; leave one of them out."
        )
    progress = TerminalProgress()
    asked = mllm or mllm_model is not None
    if asked:
        given: dict[str, object] = {"--name": name or None, "--tau": None if tau == 0.07 else tau}
        refuse_idle(given, "is of CLIP's priors, and a multimodal LLM is asked instead; leave it out")
    else:
        given = {
            "--mllm-prompt": mllm_prompt,
            "--block": block,
            "--prefilter": prefilter,
            "--calibrate": calibrate,
            "--precision": None if precision == "fp32" else precision,
            "--trust-remote-code": trust_remote_code or None,
        }
        step = "none is asked; add --mllm, or leave it out"
        refuse_idle(given, f"is of questions to a multimodal LLM, and {step}")
    if not asked:
        made = cache_clip_priors(
            data, name=name, tau=tau, part=part_of(part), overwrite=overwrite, out=out, progress=progress
        )
    else:
        made = cache_mllm_priors(
            data,
            mllm_model,
            prompt=PROMPT if mllm_prompt is None else mllm_prompt,
            device=device,
            dtype=precision,
            block=block,
            prefilter=prefilter,
            calibrate=calibrate,
            trust_remote_code=trust_remote_code,
            workers=workers,
            strict=strict,
            part=part_of(part),
            overwrite=overwrite,
            out=out,
            progress=progress,
        )
    if not report:
        tell(json, made)
        return
    answer = Answer(json)
    answer.say(*(line for line in made.lines() if line not in made.notes))  # these came as they arose
    if made.manifest is None:
        raise UserError(
            "--report needs the whole column, but other parts have chunks to make; ask the last one."
        )
    answer.figures(made.to_json() | {"report": show_priors(answer, data, rho, limit)})


def refuse_idle(settings: Mapping[str, object], why: str) -> None:
    """Refuse an option that would decide nothing: option -> what was given, None where nothing was."""
    for option, given in settings.items():
        if given is not None:
            raise UserError(f"{option} {why}.")


def show_priors(
    answer: Answer,
    data: Path,
    rho: float | None,
    limit: int | None,
    usual: PriorConfig | None = None,
) -> dict[str, Any]:
    """Measure every source of priors, show the tables, and return the figures.

    Thresholds that are not given are those in use: `usual`, a run's own; else those of shapeworld's recipe
    for its worlds and METHOD's for other photos.
    """
    from cckt.cache_builder.quality.pope import KINDS
    from cckt.cache_builder.quality.report import report_priors
    from cckt.detector.config.recipes import recipe

    usual = usual or recipe("shapeworld" if (data / "world.json").is_file() else "coco-48-17-r50").prior
    found = report_priors(
        data,
        rho=usual.rho if rho is None else rho,
        limit=usual.limit if limit is None else limit,
    )
    answer.table(
        f"Priors of {data}: present is p >= {found.rho:g}, at most {found.limit} a photo",
        ["source, concepts", "precision", "recall", "F1", "AP"],
        found.existence_rows(),
    )
    answer.table(
        f"F1, asked about as much that is absent as is there (POPE); yes is p >= {found.rho:g}",
        ["source, concepts", *KINDS],
        found.pope_rows(),
    )
    answer.say(*found.notes)
    return found.to_json()


@app.command()
def info(data: Place, columns: Columns = None, json: Json = None) -> None:
    """What columns are: how made, of what, finished or not."""
    from cckt.cache_builder.store import column_info, list_columns

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
    from cckt.cache_builder.columns.recompute import verify_data

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
    from cckt.cache_builder.store import diff_columns, list_columns

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
    from cckt.cache_builder.store import pull as pull_columns

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
    from cckt.cache_builder.store import column_info, list_columns, open_writer

    answer, figures = Answer(json), {}
    for name in columns or list_columns(data):
        manifest = open_writer(data, column_info(data, name).manifest.spec).finish()
        answer.say(f"column {name}: finished, {manifest.digest}")
        figures[name] = manifest.digest
    answer.figures(figures)
