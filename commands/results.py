"""The verbs `cckt report`, `pseudo`, `export` and `ablate`: what can be made of runs, and of their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cckt.cache_builder.base.errors import UserError
from cckt.commands import detector as cli_detector
from cckt.commands.cache import Device, Json
from cckt.commands.console import Answer, TerminalProgress


def report(
    runs: Annotated[list[Path], typer.Argument(help="One run's folder, or several to be set side by side.")],
    data: Annotated[
        Path | None, typer.Option(help="The data set to look at; default the first run's last one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; default report.html in the first run's folder.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="ov-coco, ov-lvis, coco, objects365, custom; auto looks at the data.")
    ] = "auto",
    priors: Annotated[str | None, typer.Option(help="As for cckt eval.")] = None,
    classification: Annotated[str | None, typer.Option(help="similarity, head or product.")] = None,
    no_sweep: Annotated[bool, typer.Option("--no-sweep", help="Leave out what rho and L do.")] = False,
    photos: Annotated[int, typer.Option(help="Most photos in the gallery.")] = 30,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Say in one HTML file why a run's figures are what they are."""
    from cckt.detector.report import write_report

    path = write_report(
        runs,
        out,
        data=data,
        protocol=protocol,
        priors=priors,
        classification=classification,
        sweep=not no_sweep,
        photos=photos,
        device=device,
        progress=TerminalProgress(),
    )
    answer = Answer(json)
    answer.say(f"{path}: open it in a browser; it needs nothing else")
    answer.figures({"report": path, "bytes": path.stat().st_size})


def pseudo(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    data: Annotated[Path, typer.Option(help="The data set whose photos it looks at.")],
    out: Annotated[Path, typer.Option(help="The new data set's folder.")],
    min_score: Annotated[float, typer.Option(help="Least score of a find that becomes a box.")] = 0.9,
    base_only: Annotated[
        bool, typer.Option("--base-only", help="Take finds of base concepts alone.")
    ] = False,
    priors: Annotated[str | None, typer.Option(help="As for cckt eval.")] = None,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Make a data set that also holds a run's own sure finds, marked as such, to train on once more."""
    from cckt.detector.evaluation.pseudo import pseudo_index

    made = pseudo_index(
        run,
        data,
        out,
        min_score=min_score,
        splits=("base",) if base_only else ("base", "novel"),
        priors=priors,
        device=device,
        progress=TerminalProgress(),
    )
    answer = Answer(json)
    answer.say(*made.lines())
    answer.figures(made.as_dict())


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[Path, typer.Option(help="The file (detector.onnx, detector.pt2) or folder to write.")],
    format: Annotated[str, typer.Option(help="onnx, torch (torch.export), or hf-folder.")] = "onnx",
    vocabulary: Annotated[
        str | None, typer.Option(help='Words baked into a graph: "forklift, pallet, tv|television".')
    ] = None,
    present: Annotated[
        str | None, typer.Option(help="Those of them that guide the queries in every photo; default none.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of a graph's photos; default any.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Default: the one that the run learnt from.")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights, for the model card.")] = "other",
    json: Json = None,
) -> None:
    """Take a detector elsewhere: an ONNX or torch graph, or a folder with a model card."""
    answer = Answer(json)
    if format == "hf-folder":
        from cckt.detector.export.model_card import export_folder

        folder = export_folder(run, out, licence=licence)
        answer.say(
            f"{folder}: weights, facts and model card; Detector.load and cckt predict take it like a run"
        )
        answer.figures({"folder": folder})
        return
    if format not in ("onnx", "torch"):
        raise UserError(f"--format {format} is not known; expected onnx, torch or hf-folder.")
    if vocabulary is None:
        raise UserError('a graph needs words; give --vocabulary "forklift, pallet".')
    from cckt import Detector, Vocabulary
    from cckt.detector.export.graph import export_graph

    words = Vocabulary.free(vocabulary)
    detector = Detector.load(run, "cpu", teacher=teacher)
    named = [name.strip() for name in (present or "").split(",") if name.strip()]
    options: dict[str, Any] = {"format": format, "size": _size(size), "present": named}
    made = export_graph(detector, words, out, **options)
    differs = max(made.boxes_difference, made.scores_difference)
    photos = "any size" if made.size is None else f"{made.size[0]} x {made.size[1]} px"
    answer.say(
        f"{made.path}: {made.concepts} concepts, photos of {photos}, within {differs:.1g} of torch; its "
        f"words and shapes are in {made.path.with_suffix('.json')}"
    )
    answer.figures(made.as_dict())


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as 800x1066.")
    return int(height), int(width)


def ablate(
    table: Annotated[str, typer.Argument(help="table4, table5, table6 of the paper, or options.")],
    out: Annotated[Path, typer.Option(help="The folder for data, runs and the tables.")],
    recipe: Annotated[str, typer.Option(help="What is taken apart.")] = "shapeworld",
    train_data: Annotated[
        Path | None, typer.Option("--train", help="Data set to train on; default shapeworld, rendered.")
    ] = None,
    val_data: Annotated[Path | None, typer.Option("--val", help="Data set to measure on.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each row.")] = 3,
    teacher: Annotated[
        list[str] | None, typer.Option(help="Of table5: once for each teacher, the weakest first.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Of table6: the run that is asked; default table 4's, seed 0.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="A shorter schedule, its phases in proportion.")] = None,
    overrides: cli_detector.Overrides = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help='Of options: "train.denoise_groups=0", once for each row; several with spaces.'),
    ] = None,
    photos: Annotated[int, typer.Option(help="Of shapeworld, to train on.")] = 2800,
    held_out: Annotated[int, typer.Option(help="Of shapeworld, to measure on.")] = 1000,
    rho: Annotated[list[float] | None, typer.Option(help="Of table6; default 0.7 and 0.9.")] = None,
    limit: Annotated[list[int] | None, typer.Option(help="Of table6: L; default 6 and 12.")] = None,
    json: Json = None,
) -> None:
    """Make a table of the paper on your data, or one of options; goes on where it was stopped."""
    from cckt.ablation import AblationPlan
    from cckt.ablation import ablate as make
    from cckt.ablation.page import TITLES, rows, sentences

    plan = AblationPlan(
        out=out,
        recipe=recipe,
        seeds=seeds,
        train=train_data,
        val=val_data,
        overrides=tuple(overrides or ()),
        epochs=epochs,
        photos=photos,
        held_out=held_out,
        teachers=tuple(teacher or ()),
        run=run,
        rhos=tuple(rho or (0.7, 0.9)),
        limits=tuple(limit or (6, 12)),
        rows=tuple(row or ()),
    )
    answer = Answer(json)
    made = make(table, plan, announce=answer.heading, progress=TerminalProgress())
    head, *body = rows(made)
    answer.table(f"{TITLES[table]}, in percent", head, body)
    answer.say(*sentences(made), f"{out / table}.json, {out / table}.md")
    answer.figures(made)
