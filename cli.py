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

import cli_cache
from cache_builder.errors import UserError
from console import Answer, TerminalProgress, complain


class _Stopped(Exception):
    """Ctrl-C where no stage had a better sentence for it."""


class _Front(TyperGroup):
    """Lets Ctrl-C through to `run`, whichever exit code the parser would give it."""

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

Json = cli_cache.Json
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change one option.")]


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
    images: Annotated[Path, typer.Option(help="The folder that its file names start from.")],
    out: Annotated[Path, typer.Option(help="The data set's folder, to be made.")],
    split: Annotated[
        str, typer.Option(help="coco-48-17, lvis, all-base, or a file that says which concepts are base.")
    ] = "all-base",
    keep: Annotated[str, typer.Option(help="all, or base: leave out what training must not see.")] = "all",
    json: Json = None,
) -> None:
    """Make the tables of a data set from its annotations."""
    from cache_builder.index import build_index

    report = build_index(annotations, images, out, split, keep, TerminalProgress())
    answer = Answer(json)
    answer.say(*report.lines())
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
    from shapeworld.dataset import make_dataset

    report = make_dataset(out, photos, seed, keep=keep, workers=workers, progress=TerminalProgress())
    answer = Answer(json)
    answer.say(*report.lines())
    answer.figures(report.to_json())


@app.command()
def train(
    train_data: Annotated[Path, typer.Option("--train", help="Data set to train on (kept base).")],
    out: Annotated[Path, typer.Option(help="The run's folder, to be made.")],
    val_data: Annotated[Path | None, typer.Option("--val", help="Data set to evaluate on.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="shapeworld, coco-48-17-r50, coco-48-17-swinb, lvis-r50, lvis-swinb.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML laid over the recipe.")] = None,
    overrides: Overrides = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Without the method: no guidance, no contrast, the class head.")
    ] = False,
    max_steps: Annotated[int | None, typer.Option(help="End after so many steps.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    json: Json = None,
) -> None:
    """Train a detector from columns."""
    from detector import recipes
    from detector.checkpoint import run_config
    from detector.config import apply_overrides, load_config
    from detector.train import train

    if recipe is None and not resume and config is None:
        raise UserError(f"no recipe is named; give --recipe, one of {', '.join(recipes.RECIPES)}.")
    chosen = run_config(out) if recipe is None and resume else recipes.recipe(recipe or "coco-48-17-r50")
    chosen = recipes.plain(chosen) if plain else chosen
    chosen = load_config(config, chosen) if config is not None else chosen
    chosen = apply_overrides(chosen, overrides or ())
    figures = train(
        chosen, train_data, val_data, out, resume=resume, max_steps=max_steps, progress=TerminalProgress()
    )
    answer = Answer(json)
    answer.say(f"{out}: step {figures['step']}, {figures['images_per_s']:.1f} images/s")
    evaluation = figures["evaluation"]
    names = [name for name in ("ap50_base", "ap50_novel", "ap50_all", "ap") if name in evaluation]
    if names:
        answer.table("", ["held out", *names], [[str(val_data), *(evaluation[name] for name in names)]])
    answer.figures(figures)
    if figures["stopped"]:
        raise UserError(
            f"stopped by {figures['stopped']} at step {figures['step']}, with a checkpoint; "
            "add --resume to go on."
        )


@app.command("eval")
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A run's folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="The data set to score it on.")] = None,
    priors: Annotated[
        str | None, typer.Option(help="clip, mllm, oracle or none; default the run's own.")
    ] = None,
    classification: Annotated[str | None, typer.Option(help="similarity, head or product.")] = None,
    engine: Annotated[str, typer.Option(help="hotcoco, or pycocotools, the oracle.")] = "hotcoco",
    resamples: Annotated[int, typer.Option(help="Bootstrap intervals from so many resamples.")] = 0,
    detections: Annotated[
        Path | None, typer.Option(help="Score this file in COCO results format instead of a run.")
    ] = None,
    concepts: Annotated[bool, typer.Option("--concepts", help="Show every concept too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write; default in the run's folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    json: Json = None,
) -> None:
    """Score a run, or any detections, on a data set."""
    from cache_builder.index import open_index
    from detector.evaluate import evaluate_detections, evaluate_run
    from detector.evaluation.detections import Detections

    if data is None:
        raise UserError("no data set is named; give --data FOLDER, one that cckt data index made.")
    if (run is None) == (detections is None):
        raise UserError("expected one thing to score: a run's folder, or --detections RESULTS.json.")
    if detections is not None:
        found = Detections.from_json(detections)
        metrics = evaluate_detections(open_index(data), found, engine=engine, resamples=resamples)
    else:
        assert run is not None
        metrics = evaluate_run(
            run,
            data,
            priors=priors,
            classification=classification,
            engine=engine,
            device=device,
            resamples=resamples,
            out=out,
            progress=TerminalProgress(),
        )
    answer = Answer(json)
    answer.table(f"{run or detections} on {data}, in percent", ["figure", "value"], metrics.rows())
    if concepts:
        answer.table("", ["concept", "split", "boxes", "AP50", "AP"], metrics.concept_rows())
    answer.figures(metrics.as_dict())


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
        # A stage that was stopped by a signal says so itself (cache_builder.runner.Interrupted).
        return 128 + error.number if hasattr(error, "number") else 2
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
