"""The command `cckt`: every verb parses its options, calls one function and shows what it answers.

Nothing heavy is imported here: verbs import what they need when they run, so that help answers at once.
Exit codes: 0 done; 2 the user can mend it (one sentence on stderr); 1 a fault of ours; 128 + n: signal n.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cckt.cache_builder.base.errors import UserError
from cckt.commands import cache as cli_cache
from cckt.commands import columns as cli_columns
from cckt.commands import detector as cli_detector
from cckt.commands import results as cli_results
from cckt.commands import train as cli_train
from cckt.commands.console import Answer, TerminalProgress, complain


class _Stopped(Exception):
    """Ctrl-C where no stage had a better sentence for it."""


class _Front(TyperGroup):
    """Verbs in the order of use; Ctrl-C comes through to `run`, whatever the parser would make of it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The order of help."""
        return [
            "quickstart",
            "data",
            "cache",
            "train",
            "eval",
            "predict",
            "report",
            "pseudo",
            "export",
            "ablate",
            "doctor",
        ]

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Stopped from None


app = typer.Typer(cls=_Front, no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
data = typer.Typer(help="Data sets: index your own, or render shapeworld.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(cli_cache.app, name="cache")
cli_cache.app.add_typer(cli_columns.app)
app.command("train", cls=cli_train.TrainCommand)(cli_train.train)
app.command("eval")(cli_detector.evaluate)
app.command("predict")(cli_detector.predict)
app.command("report")(cli_results.report)
app.command("pseudo")(cli_results.pseudo)
app.command("export")(cli_results.export)
app.command("ablate")(cli_results.ablate)

Json = cli_cache.Json
NEXT = """
Look at {out}/predictions/sheet.png; all figures are in {out}/metrics.json. Ask for words of your own:

  cckt predict {out}/run {out}/held-out/photos --vocabulary "umbrella, airplane, snowflake" --out finds

The same on your photos, with annotations in COCO format and a teacher that open_clip knows:

  cckt data index --annotations train.json --images photos --split split.json --keep base --out caches/train
  cckt cache all caches/train --teacher ViT-B-32/laion2b_s34b_b79k
  cckt train --recipe coco-48-17-r50 --train caches/train --out runs/mine

and `cckt doctor --recipe coco-48-17-r50 --data caches/train` says beforehand whether everything fits."""


@app.callback()
def front(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a fault; may stand anywhere.")
    ] = False,
) -> None:
    """Open-vocabulary detection by knowledge transfer: cache a teacher once, train a light detector from it.

    New here? [bold]cckt quickstart[/bold] shows all of it in ten minutes.
    """
    assert not debug, "run() takes --debug out"


@data.command("index")
def data_index(
    annotations: Annotated[Path, typer.Option(help="JSON in COCO format: COCO, LVIS, Objects365, your own.")],
    out: Annotated[Path, typer.Option(help="The data set's folder, to be made.")],
    images: Annotated[
        Path | None,
        typer.Option(help="The folder that its file names start from; none to score detections alone."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="coco-48-17, lvis, all-base, or a file that says which concepts are base.")
    ] = "all-base",
    keep: Annotated[str, typer.Option(help="all, or base: leave out what training must not see.")] = "all",
    json: Json = None,
) -> None:
    """Make the tables of a data set from its annotations."""
    from cckt.cache_builder.index import build_index

    report = build_index(annotations, images, out, split, keep, TerminalProgress())
    answer = Answer(json)
    answer.say(*report.lines())
    if images is None:
        answer.say("boxes alone: enough for cckt eval --detections; all else needs --images")
    answer.figures(report.to_json())


@data.command("shapeworld")
def data_shapeworld(
    photos: Annotated[int, typer.Option(help="How many.")],
    out: Annotated[Path, typer.Option(help="The data set's folder, to be made.")],
    seed: Annotated[int, typer.Option(help="Of the world; a photo follows from seed and number.")] = 1,
    keep: Annotated[str, typer.Option(help="all, or base: leave out what training must not see.")] = "all",
    workers: Annotated[int | None, typer.Option(help="Processes that render; default one a core.")] = None,
    json: Json = None,
) -> None:
    """Render photos of the embedded world, with COCO JSON, split and index."""
    from cckt.shapeworld.dataset import make_dataset

    report = make_dataset(out, photos, seed, keep=keep, workers=workers, progress=TerminalProgress())
    answer = Answer(json)
    answer.say(*report.lines())
    answer.figures(report.to_json())


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="The folder for all of it.")] = Path("quickstart"),
    full: Annotated[bool, typer.Option("--full", help="More photos and epochs: half an hour.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Train the same detector without the method too.")
    ] = False,
    mllm: Annotated[
        bool, typer.Option("--mllm", help="Score it with a multimodal LLM's priors besides CLIP's too.")
    ] = False,
    json: Json = None,
) -> None:
    """From nothing to a detector that finds what it was never shown, in ten minutes of two cores."""
    from cckt.detector.evaluation.metrics import LABELS, percent
    from cckt.detector.evaluation.protocols import SPLIT_FIGURES
    from cckt.quickstart import FULL, QUICK
    from cckt.quickstart import quickstart as all_of_it

    answer = Answer(json)
    figures = all_of_it(
        out,
        plan=FULL if full else QUICK,
        plain=plain,
        mllm="shapeworld" if mllm else None,
        say=answer.heading,
        progress=TerminalProgress(),
    )
    own = "CCKT-Det, CLIP priors" if mllm else "CCKT-Det"
    rows = [
        (own, figures),
        ("the same detector, MLLM priors", figures["mllm"]),
        ("without the method", figures["plain"]),
        ("the same, priors weigh on its scores", figures["plain"] and figures["plain"]["weighed"]),
    ]
    answer.table(
        "On held-out photos, in percent",
        ["detector", *(LABELS[key] for key in SPLIT_FIGURES)],
        [[name, *(percent(row[key]) for key in SPLIT_FIGURES)] for name, row in rows if row],
    )
    seconds = figures["seconds"].items()
    answer.table(
        "Where the time went", ["stage", "seconds"], [(name, f"{value:.0f}") for name, value in seconds]
    )
    answer.say(*NEXT.format(out=out).splitlines())
    answer.figures(figures)


@app.command()
def doctor(
    recipe: Annotated[str | None, typer.Option(help="A recipe, to see whether it and the data fit.")] = None,
    overrides: cli_detector.Overrides = None,
    data: Annotated[Path | None, typer.Option(help="Data set to train on.")] = None,
    val: Annotated[Path | None, typer.Option(help="Data set to evaluate on.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run's folder.")] = None,
    mllm_model: Annotated[
        str | None, typer.Option(help="A multimodal LLM: can it be asked, and what are its yes and no?")
    ] = None,
    json: Json = None,
) -> None:
    """Say what is installed, what is missing, what fits, and prove that no novel box can reach training."""
    from cckt.detector.config.config import apply_overrides
    from cckt.detector.config.recipes import recipe as named
    from cckt.detector.doctor import run_checks

    config = apply_overrides(named(recipe), overrides or ()) if recipe else None
    findings = run_checks(config, data=data, val=val, run=run, mllm_model=mllm_model)
    answer = Answer(json)
    for finding in findings:
        answer.finding(finding.level, finding.subject, finding.message)
    answer.figures({"findings": [vars(finding) for finding in findings]})
    bad = sum(finding.level == "bad" for finding in findings)
    if bad:
        raise UserError(f"{bad} of these must be mended first; each line marked with a cross says how.")


def run(arguments: Sequence[str]) -> int:
    """Answer one command line; its exit code. `--debug` lets exceptions through."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        typer.main.get_command(app).main(rest, prog_name="cckt")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except UserError as error:
        if debug:
            raise
        complain(str(error))
        return error.exit_code
    except _Stopped:
        complain("stopped; what is finished is kept, the same command goes on.")
        return 130
    except Exception as fault:
        if debug:
            raise
        complain(
            f"a fault of ours: {type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''} "
            "- please report it, with what the same command says under --debug."
        )
        return 1
    return 0


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
