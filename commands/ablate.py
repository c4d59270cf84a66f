"""`cckt ablate`: the paper's tables on any data, a table of options, and one of HD-OVD's levels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import Json, Overrides


def ablate(
    table: Annotated[
        str, typer.Argument(help="table4, table5, table6, options, levels, retention or finetune.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for data, runs and tables.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe whose parts are compared. Default: shapeworld; for levels, retention its HD-OVD."
        ),
    ] = None,
    train_data: Annotated[
        Path | None, typer.Option("--train", help="Data set to train on. Default: a rendered shapeworld.")
    ] = None,
    val_data: Annotated[
        Path | None, typer.Option("--val", help="Data set to evaluate on. Default: a rendered shapeworld.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs per row.")] = 3,
    teacher: Annotated[
        list[str] | None, typer.Option(help="table5: CLIP model; once per teacher, the weakest first.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="table6: run to evaluate. Default: that of table4's last row with seed 0. levels, "
            "retention, finetune: run that proposes regions. Default: a base detector, trained in OUT."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs; the phases of the schedule keep their proportions.")
    ] = None,
    overrides: Overrides = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            help='options, finetune: one row, such as "denoise.groups=0 model.queries=30"; repeatable.'
        ),
    ] = None,
    photos: Annotated[int, typer.Option(help="shapeworld: photos to train on.")] = 2800,
    held_out: Annotated[int, typer.Option(help="shapeworld: photos to evaluate on.")] = 1000,
    rho: Annotated[
        list[float] | None, typer.Option(help="table6: rho; repeatable. Default: 0.7 and 0.9.")
    ] = None,
    limit: Annotated[list[int] | None, typer.Option(help="table6: L; repeatable. Default: 6 and 12.")] = None,
    nouns_from: Annotated[
        Path | None,
        typer.Option(
            help="levels, retention, finetune: choose nouns from the words of a file. Default: a tiny "
            "multimodal LLM."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="levels, retention, finetune: most proposals per photo. Default: 20."),
    ] = None,
    at: Annotated[
        list[int] | None,
        typer.Option(help="retention: epochs of the curves; repeatable. Default: 2, 4, 8, 16 and 32."),
    ] = None,
    json: Json = None,
) -> None:
    """Make a table of the paper, of options, levels, retention or fine-tuning; a second call resumes it."""
    from cckt.ablation import AblationPlan
    from cckt.ablation import ablate as make_table
    from cckt.ablation.page import TITLES, rows, sentences
    from cckt.ablation.plan import EPOCHS_OF_CURVES, LIMITS, PROPOSALS_TOP, RHOS

    plan = AblationPlan(
        out=out,
        recipe=recipe or ("shapeworld-hdovd" if table in ("levels", "retention") else "shapeworld"),
        seeds=seeds,
        train=train_data,
        val=val_data,
        overrides=tuple(overrides or ()),
        epochs=epochs,
        photos=photos,
        held_out=held_out,
        teachers=tuple(teacher or ()),
        run=run,
        rhos=tuple(rho or RHOS),
        limits=tuple(limit or LIMITS),
        rows=tuple(row or ()),
        nouns_from=nouns_from,
        top=PROPOSALS_TOP if top is None else top,
        at=tuple(at or EPOCHS_OF_CURVES),
    )
    answer = Answer(json)
    made = make_table(table, plan, announce=answer.stage, progress=TerminalProgress())
    head, *body = rows(made)
    answer.table(f"{TITLES[table]}, in percent", head, body)
    answer.lines(*sentences(made), f"{out / table}.json, {out / table}.md")
    answer.figures(made)
