"""`cckt export`: an ONNX or torch graph, or a folder with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.untrusted.text import natural
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import Json, Run, RunTeacher, changed, refuse_unused

TIME_LIMIT, LICENCE = 15.0, "other"


def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="File (detector.onnx, detector.pt2) or folder to write.")],
    format: Annotated[str, typer.Option(help="onnx, torch (torch.export) or hf-folder.")] = "onnx",
    vocabulary: Annotated[
        str | None,
        typer.Option(help='Concepts that become part of the graph: "forklift, pallet, tv|television".'),
    ] = None,
    present: Annotated[
        str | None,
        typer.Option(help="Concepts of these that guide the queries in every photo. Default: none."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Input size of the graph as HEIGHTxWIDTH in pixels. Default: any.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision of an ONNX graph: fp32, fp16, or int8, which needs --photos.")
    ] = "fp32",
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder of photos: ranges of values for int8, and the comparison with torch."),
    ] = None,
    gather: Annotated[
        bool, typer.Option("--gather", help="Use the operator Gather in place of GridSample.")
    ] = False,
    time_limit: Annotated[
        float, typer.Option(help="Stop an export that takes longer than this many minutes.")
    ] = TIME_LIMIT,
    teacher: RunTeacher = None,
    licence: Annotated[
        str, typer.Option(help="Licence of the weights for the model card, such as apache-2.0.")
    ] = LICENCE,
    json: Json = None,
) -> None:
    """Export a detector as an ONNX or torch graph, or as a folder with a model card."""
    answer = Answer(json)
    if format == "hf-folder":
        refuse_unused(
            {
                "--vocabulary": vocabulary,
                "--present": present,
                "--size": size,
                "--precision": changed(precision, "fp32"),
                "--photos": photos,
                "--gather": changed(gather, False),
                "--time-limit": changed(time_limit, TIME_LIMIT),
                "--teacher": teacher,
            },
            "applies only to graphs; remove it.",
        )
        from cckt.detector.export.model_card import export_folder

        folder = export_folder(run, out, licence=licence)
        answer.lines(
            f"{folder}: weights, facts and model card; Detector.load and cckt predict accept it as a run"
        )
        answer.figures({"folder": folder})
        return
    if format not in ("onnx", "torch"):
        raise UserError(f"--format {format} is not known; expected onnx, torch or hf-folder.")
    refuse_unused({"--licence": changed(licence, LICENCE)}, "applies only to --format hf-folder; remove it.")
    if vocabulary is None:
        raise UserError('a graph needs a vocabulary; give --vocabulary "forklift, pallet".')
    from cckt import Detector, Vocabulary
    from cckt.detector.export.graph import export_graph
    from cckt.detector.export.graph_card import card_path
    from cckt.detector.export.precision import MOST_PHOTOS
    from cckt.detector.inference.photo_sources import find_photos, is_video
    from cckt.detector.inference.stages.open_photo import open_photo

    concepts = Vocabulary.free(vocabulary)
    detector = Detector.load(run, "cpu", teacher=teacher, precision="fp32")
    names = [name.strip() for name in (present or "").split(",") if name.strip()]
    options: dict[str, Any] = {"format": format, "size": _parse_size(size), "present": names}
    options |= {"precision": precision, "gather": gather, "minutes": time_limit}
    if photos is not None:
        paths = [path for path in find_photos([photos]) if not is_video(path)]
        options["photos"] = [open_photo(path, strict=True)[0] for path in paths[:MOST_PHOTOS]]
    made = export_graph(detector, concepts, out, progress=TerminalProgress(), **options)
    difference = max(made.boxes_difference, made.scores_difference)
    sizes = "any size" if made.size is None else f"{made.size[0]} x {made.size[1]} px"
    if made.multiple > 1:
        sizes = f"any size in multiples of {made.multiple} px"
    mean = max(made.mean_boxes_difference, made.mean_scores_difference)
    apart = f"within {difference:.1g} of torch" + ("" if precision == "fp32" else f" (mean {mean:.1g})")
    answer.lines(
        f"{made.path}: {counted(made.concepts, 'concept')}, {precision}, photos of {sizes}, {apart}; "
        f"names and shapes are in {card_path(made.path)}"
    )
    answer.figures(made.as_dict())


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of "800x1066"; None for None. Raises UserError for another form."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    sides = natural(height), natural(width)
    if not sides[0] or not sides[1]:
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as 800x1066.")
    return sides[0], sides[1]
