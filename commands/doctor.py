"""`cckt doctor`: check the installation, data sets and a run before hours are spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.errors import UserError
from cckt.commands.console import Answer
from cckt.commands.options import Json, Overrides


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
    json: Json = None,
) -> None:
    """Check the installation, data sets and a run, and that no novel box can reach training."""
    from cckt.detector.config.config import apply_overrides
    from cckt.detector.config.recipes import recipe as named
    from cckt.detector.doctor import accept_run, run_checks

    if accept and run is None:
        raise UserError("--accept: found no --run, expected the run whose files you changed; add --run RUN.")
    accepted = accept_run(run) if accept and run is not None else []
    config = apply_overrides(named(recipe), overrides or ()) if recipe else None
    findings = accepted + run_checks(config, data=data, val=val, run=run, mllm_model=mllm_model)
    answer = Answer(json)
    for finding in findings:
        answer.finding(finding.level, finding.subject, finding.message)
    answer.figures({"findings": [vars(finding) for finding in findings]})
    bad = sum(finding.level == "bad" for finding in findings)
    if bad:
        raise UserError(f"{bad} of {len(findings)} checks failed; each line marked ✗ says how to fix it.")
