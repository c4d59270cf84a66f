"""`cckt report`: one HTML file about one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import DEVICE, PROTOCOL, Classification, Device, Json, Priors, Protocol


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared with the first.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Data set to evaluate on. Default: that of the first run's newest evaluation."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file. Default: report.html in the first run folder.")
    ] = None,
    protocol: Protocol = PROTOCOL,
    priors: Priors = None,
    classification: Classification = None,
    no_sweep: Annotated[
        bool, typer.Option("--no-sweep", help="Leave out the figures for other values of rho and L.")
    ] = False,
    photos: Annotated[int, typer.Option(help="Most photos in the gallery.")] = 30,
    device: Device = DEVICE,
    json: Json = None,
) -> None:
    """Explain the figures of a run in one HTML file: errors, confusions, priors and a gallery."""
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
    answer.lines(f"{path}: open it in a browser; it needs no other file")
    answer.figures({"report": path, "bytes": path.stat().st_size})
