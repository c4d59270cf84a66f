"""`cckt train`: start or resume a run."""

from __future__ import annotations

import shlex
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cckt.cache_builder.base.constants import SAW_NOVEL
from cckt.cache_builder.base.errors import UserError, counted
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import Json, Overrides, refuse_unused


class TrainCommand(TyperCommand):
    """The command with an optional value of `--resume`: without one, `--out` names the run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give `--resume` without a value the empty value."""
        words = [
            "--resume=" if word == "--resume" and (after is None or after.startswith("-")) else word
            for word, after in zip_longest(args, args[1:])
        ]
        return super().parse_args(ctx, words)


def _only_one(option: str, folders: list[Path] | None) -> Path | None:
    """Return the folder of an option, None without it. Raises UserError where it is given more than once."""
    if folders and len(folders) > 1:
        raise UserError(
            f"{option} is given {len(folders)} times ({', '.join(map(str, folders))}), expected one data "
            "set; make one of several with cckt data index --annotations A.json --annotations B.json "
            "--images "
            "FOLDER --out DATA."
        )
    return folders[0] if folders else None


def train(
    train_folders: Annotated[
        list[Path] | None,
        typer.Option("--train", help="Data set to train on, indexed with --keep base."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to create.")] = None,
    val_folders: Annotated[list[Path] | None, typer.Option("--val", help="Data set to evaluate on.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe: shapeworld, coco-48-17-r50, lvis-r50 and others; a wrong name lists them all."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file whose options replace the recipe's.")] = None,
    overrides: Overrides = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Run folder or .safetensors file whose fitting weights to start from."),
    ] = None,
    saw_novel: Annotated[
        str,
        typer.Option(
            help="Whether the file of --from was trained on boxes of novel concepts: yes, no or unknown."
        ),
    ] = SAW_NOVEL,
    epochs: Annotated[
        str | None,
        typer.Option(help="Passes over the photos, or auto to choose them from the number of photos."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Choose the epochs that fit this many minutes on this machine, by timing steps."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show all options of the run as TOML, and train nothing.")
    ] = False,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Train without the method: no guidance, no contrast, class head score."),
    ] = False,
    max_steps: Annotated[int | None, typer.Option(help="End the run after this many steps.")] = None,
    stop_after: Annotated[
        int | None, typer.Option(help="Stop this process after this many steps, with a checkpoint.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="[RUN]", help="Resume a run from its newest checkpoint. Default: that of --out."
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Train a detector on cached columns."""
    from cckt.cache_builder.runner import Interrupted
    from cckt.detector.config import recipes
    from cckt.detector.config.config import apply_overrides, load_config
    from cckt.detector.evaluation.metrics import LABELS, percent
    from cckt.detector.evaluation.protocols import SPLIT_FIGURES
    from cckt.detector.runs.run_folder import run_config
    from cckt.detector.training.length import planned
    from cckt.detector.training.run import Folders
    from cckt.detector.training.train import STOP_AFTER
    from cckt.detector.training.train import train as train_detector

    train_data, val_data = _only_one("--train", train_folders), _only_one("--val", val_folders)
    resuming = resume is not None
    if resume and out is not None and Path(resume).resolve() != out.resolve():
        raise UserError(f"--resume {resume} and --out {out} name two runs; pass only one of them.")
    out = Path(resume) if resume else out
    if out is None and not print_config:
        raise UserError("no run is named; give --out FOLDER for a new run, or --resume RUN.")
    if recipe is None and not resuming and config is None:
        raise UserError(f"no recipe is named; give --recipe, one of {', '.join(recipes.RECIPES)}.")
    chosen = (
        run_config(out) if out and recipe is None and resuming else recipes.recipe(recipe or "coco-48-17-r50")
    )
    chosen = recipes.plain(chosen) if plain else chosen
    chosen = load_config(config, chosen) if config is not None else chosen
    chosen = apply_overrides(chosen, overrides or ())
    if resuming:
        refuse_unused(
            {"--from": start, "--epochs": epochs, "--minutes": minutes},
            "applies only to a new run; you passed --resume. Remove it.",
        )
    if print_config:
        if epochs is not None or minutes is not None:
            if train_data is None:
                raise UserError("--epochs and --minutes need the data set; give --train FOLDER.")
            chosen = planned(chosen, train_data, epochs, minutes)
        Answer(json).lines(*chosen.to_toml().rstrip().splitlines())
        return
    assert out is not None, "expected a run folder, found None"
    if resuming and (train_data is None or (out / "data.json").is_file()):
        known = Folders.load(out)
        train_data = train_data or Path(known.train)
        val_data = val_data or (Path(known.val) if known.val is not None else None)
        max_steps = known.max_steps if max_steps is None else max_steps
    if train_data is None:
        raise UserError(
            "no data set is named; give --train FOLDER, a data set made by cckt data index with --keep base."
        )
    if start is None and saw_novel != SAW_NOVEL:
        raise UserError("--saw-novel states what is known of the file of --from; you passed none. Remove it.")
    if start is not None and not start.exists():
        raise UserError(f"--from {start}: no such run folder or file; check the name.")
    progress = TerminalProgress()
    if not resuming and (epochs is not None or minutes is not None):
        chosen = planned(chosen, train_data, epochs, minutes)
        progress.note(f"the run has {counted(chosen.train.epochs, 'epoch')}")
    figures = train_detector(
        chosen,
        train_data,
        val_data,
        out,
        resume=resuming,
        max_steps=max_steps,
        stop_after=stop_after,
        start=start,
        saw_novel=saw_novel,
        progress=progress,
    )
    answer = Answer(json)
    answer.lines(f"{out}: step {figures['step']}, {figures['images_per_s']:.1f} images/s")
    evaluation = figures["evaluation"]
    if evaluation:
        head = ["in percent, on", *(LABELS[name] for name in SPLIT_FIGURES)]
        cells = [percent(evaluation.get(name)) for name in SPLIT_FIGURES]
        answer.table("", head, [[str(val_data), *cells]])
    answer.figures(figures)
    command = shlex.join(["cckt", "train", "--resume", str(out)])
    if figures["stopped"] == STOP_AFTER:
        answer.lines(f"stopped with a checkpoint; run {command} to continue")
    elif figures["stopped"]:
        when = f"step {figures['step']}, with a checkpoint"
        raise Interrupted.by(figures["stopped"], when, f"run {command} to continue")
