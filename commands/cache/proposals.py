"""`cckt cache proposals`: cache class-agnostic regions of each image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cckt.cache_builder.base.constants import MIN_SIDE, NMS, PRECISION, PROPOSAL_BATCH, SAW_NOVEL, TOP
from cckt.cache_builder.base.errors import UserError
from cckt.commands.console import TerminalProgress, show_reports
from cckt.commands.engines.choice import (
    ActorCpus,
    Actors,
    Address,
    Engine,
    ExactPart,
    PrintSbatch,
    caller,
    print_sbatch,
)
from cckt.commands.options import (
    DEVICE,
    REUSE,
    ColumnOut,
    Data,
    Device,
    Json,
    Overwrite,
    Part,
    Precision,
    Processes,
    Reuse,
    Strict,
    Workers,
    changed,
    parse_part,
    refuse_unused,
)

if TYPE_CHECKING:
    from cckt.cache_builder.columns.report import CacheReport


def proposals(
    context: typer.Context,
    data: Data,
    run: Annotated[
        Path | None, typer.Option("--from", help="Run folder: the class-agnostic regions of its detector.")
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(help="Hub id or folder of an object or zero-shot detector that transformers loads."),
    ] = None,
    words: Annotated[
        str | None, typer.Option(help="Words for a zero-shot detector. Default: object.")
    ] = None,
    import_file: Annotated[
        Path | None, typer.Option("--import", help="COCO results file with boxes on these images.")
    ] = None,
    trained_on: Annotated[str, typer.Option(help="What the detector was trained on, for the record.")] = "",
    saw_novel: Annotated[
        str, typer.Option(help="Whether it was trained on novel classes: yes, no or unknown.")
    ] = SAW_NOVEL,
    top: Annotated[int, typer.Option(help="Most proposals per image.")] = TOP,
    nms: Annotated[
        float, typer.Option(help="Of two boxes with a higher IoU, only the better one stays.")
    ] = NMS,
    min_side: Annotated[
        float, typer.Option(help="Shortest side of a proposal, in pixels of the original image.")
    ] = MIN_SIDE,
    name: Annotated[
        str, typer.Option(help="Label of a second proposals table; its columns are in proposals-NAME/.")
    ] = "",
    batch: Annotated[int, typer.Option(help="Images per forward pass of the detector.")] = PROPOSAL_BATCH,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = DEVICE,
    precision: Precision = PRECISION,
    strict: Strict = False,
    part: Part = None,
    exact_part: ExactPart = False,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    print_script: PrintSbatch = False,
    overwrite: Overwrite = False,
    reuse: Reuse = REUSE,
    out: ColumnOut = None,
    json: Json = None,
) -> None:
    """Cache the best class-agnostic regions of each image, from a run, a detector or a file of boxes."""
    from cckt.cache_builder.base.constants import CHUNK_ROWS
    from cckt.cache_builder.columns.proposals import import_proposals
    from cckt.cache_builder.proposals import Selection
    from cckt.cache_builder.proposals.table import BOXES
    from cckt.cache_builder.store import ColumnName

    sources = {"--from": run, "--detector": detector, "--import": import_file}
    given = [option for option, value in sources.items() if value is not None]
    if len(given) != 1:
        raise UserError(
            f"cckt cache proposals: found {' and '.join(given) or 'no source'}, expected exactly one of "
            "--from RUN, --detector ID and --import FILE; name one source."
        )
    selection = Selection(top, nms, min_side)
    if words is not None and detector is None:
        raise UserError(f"--words applies only to --detector; you passed {given[0]}. Remove it.")
    if import_file is not None:
        refuse_unused(
            {
                "--batch": changed(batch, PROPOSAL_BATCH),
                "--workers": workers,
                "--processes": changed(processes, False),
                "--precision": changed(precision, PRECISION),
                "--strict": changed(strict, False),
                "--engine": changed(engine, "local"),
                "--reuse": changed(reuse, REUSE),
                "--print-sbatch": changed(print_script, False),
            },
            "applies only to a detector; you passed --import, which reads no images. Remove it.",
        )
        report = import_proposals(
            data,
            import_file,
            trained_on=trained_on,
            saw_novel=saw_novel,
            selection=selection,
            name=name,
            part=parse_part(part),
            overwrite=overwrite,
            out=out,
            progress=TerminalProgress(),
        )
        show_reports(json, report)
        return
    if run is not None:
        refuse_unused(
            {"--trained-on": changed(trained_on, ""), "--saw-novel": changed(saw_novel, SAW_NOVEL)},
            "states what is known of a run; you passed --from. Remove it.",
        )
    call = caller(engine, address, actors, actor_cpus, part)
    if print_script:
        print_sbatch(context, data, [(str(ColumnName(BOXES, of=name)), "images", CHUNK_ROWS)], out)
        return
    report = call(
        propose,
        data,
        run,
        detector,
        words=words,
        trained_on=trained_on,
        saw_novel=saw_novel,
        device=device,
        precision=precision,
        selection=selection,
        name=name,
        batch=batch,
        workers=workers,
        processes=processes,
        strict=strict,
        part=parse_part(part, exact_part),
        overwrite=overwrite,
        reuse=reuse,
        out=out,
        progress=TerminalProgress(),
    )
    show_reports(json, report)


def propose(
    data: Path,
    run: Path | None,
    detector: str | None,
    *,
    words: str | None = None,
    trained_on: str = "",
    saw_novel: str = SAW_NOVEL,
    device: str = DEVICE,
    precision: str = PRECISION,
    **options: Any,
) -> CacheReport:
    """Load the detector of a run, or one of transformers, and make the column `proposals/boxes` with it.

    Every worker of a cluster calls it on its own node. options: see `cache_proposals`.
    """
    from cckt.cache_builder.columns.proposals import Proposer, cache_proposals

    proposer: Proposer
    if run is not None:
        from cckt.detector.inference.region_proposals import RunProposer

        proposer = RunProposer(run, device, precision)
    else:
        from cckt.cache_builder.detectors import DetectorProposer, load_detector

        assert detector is not None, "expected a run or a detector"
        loaded = load_detector(detector, device=device, precision=precision)
        proposer = DetectorProposer(loaded, words, trained_on=trained_on, saw_novel=saw_novel)
    return cache_proposals(data, proposer, **options)
