"""`cckt doctor`: check the installation, data sets and a run before hours are spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cckt.cache_builder.base.errors import UserError
from cckt.commands.console import Answer
from cckt.commands.options import Json, Overrides

if TYPE_CHECKING:
    from cckt.cache_builder.doctor.finding import Finding


def doctor(
    recipe: Annotated[
        str | None, typer.Option(help="Recipe to check, by itself and against the data sets.")
    ] = None,
    overrides: Overrides = None,
    data: Annotated[Path | None, typer.Option(help="Data set to train on.")] = None,
    val: Annotated[Path | None, typer.Option(help="Data set to evaluate on.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    accept: Annotated[
        bool,
        typer.Option("--accept", help="Accept the files of --run that you changed."),
    ] = False,
    mllm_model: Annotated[
        str | None, typer.Option(help="Multimodal LLM to load; shows its tokens for yes and no.")
    ] = None,
    timed: Annotated[
        bool,
        typer.Option("--time", help="Also train a few steps on --data: hours and memory of the whole run."),
    ] = False,
    json: Json = None,
) -> None:
    """Check the installation, data sets and a run, and that no novel box can reach training."""
    if accept and run is None:
        raise UserError("--accept: found no --run, expected the run whose files you changed; add --run RUN.")
    if timed and (data is None or (recipe is None and run is None)):
        raise UserError("--time trains a few steps; add --data FOLDER, and --recipe NAME or --run RUN.")
    if any((recipe, data, val, run, mllm_model)):
        findings = _checks(recipe, overrides, data, val, run, accept, mllm_model, timed)
    else:
        from cckt.cache_builder.doctor.machine import check_installation, check_machine

        findings = [*check_installation(), *check_machine()]
    answer = Answer(json)
    for finding in findings:
        answer.finding(finding.level, finding.subject, finding.message)
    answer.figures({"findings": [vars(finding) for finding in findings]})
    bad = sum(finding.level == "bad" for finding in findings)
    if bad:
        raise UserError(f"{bad} of {len(findings)} checks failed; each line marked ✗ says how to fix it.")


def _checks(
    recipe: str | None,
    overrides: list[str] | None,
    data: Path | None,
    val: Path | None,
    run: Path | None,
    accept: bool,
    mllm_model: str | None,
    timed: bool,
) -> list[Finding]:
    """Return the findings on what is named. Imports the networks, which takes seconds."""
    from cckt.detector.config.config import apply_overrides
    from cckt.detector.config.recipes import recipe as named
    from cckt.detector.doctor import accept_run, run_checks

    accepted = accept_run(run) if accept and run is not None else []
    config = apply_overrides(named(recipe), overrides or ()) if recipe else None
    found = run_checks(config, data=data, val=val, run=run, mllm_model=mllm_model, timed=timed)
    return accepted + found
