"""`cckt eval`: score a run, or a file of detections, on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.errors import UserError, counted
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import (
    DEVICE,
    PROTOCOL,
    Classification,
    Confirm,
    Device,
    Json,
    Limit,
    Overrides,
    Priors,
    Protocol,
    Rho,
    RunTeacher,
    changed,
    refuse_unused,
)
from cckt.commands.prior_report import show_prior_report


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Run folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data set to score on.")] = None,
    priors: Priors = None,
    classification: Classification = None,
    protocol: Protocol = PROTOCOL,
    engine: Annotated[
        str, typer.Option(help="hotcoco, or pycocotools, the slower reference; both give the same figures.")
    ] = "hotcoco",
    resamples: Annotated[
        int,
        typer.Option(
            min=0, max=100_000, help="Bootstrap resamples of the images for the intervals; 0 for none."
        ),
    ] = 1000,
    against: Annotated[Path | None, typer.Option(help="Run folder or results file to compare with.")] = None,
    detections: Annotated[
        Path | None, typer.Option(help="Score this file in COCO results format instead of a run.")
    ] = None,
    concepts: Annotated[
        bool, typer.Option("--concepts", help="Also show the figures of each concept.")
    ] = False,
    asked: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Also draw N words many times and show what cckt predict would find for them; 0 for none.",
        ),
    ] = 0,
    confirm: Confirm = 0,
    teacher: RunTeacher = None,
    priors_only: Annotated[
        bool,
        typer.Option(
            "--priors-only",
            help="Measure the priors of the data set instead; a run gives the defaults of --rho and --limit.",
        ),
    ] = False,
    rho: Rho = None,
    limit: Limit = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Output folder. Default: in the run folder.")] = None,
    device: Device = DEVICE,
    json: Json = None,
) -> None:
    """Score a run, or any detections, on a data set."""
    from cckt.api import confirmation
    from cckt.cache_builder.index import open_index
    from cckt.detector.evaluation.asked import headline_rows, request_rows
    from cckt.detector.evaluation.compare_runs import compare_runs
    from cckt.detector.evaluation.evaluate import evaluate_detections, evaluate_run
    from cckt.detector.evaluation.results_file import read_results
    from cckt.detector.inference.result_folders import require_own_evaluation
    from cckt.detector.runs.run_folder import run_config

    if data is None:
        raise UserError("no data set is named; give --data FOLDER, a data set made by cckt data index.")
    answer, progress = Answer(json), TerminalProgress()
    if not confirm:
        refuse_unused({"--teacher": teacher}, "applies only with --confirm; remove it.")
    if priors_only:
        refuse_unused(
            {
                "--detections": detections,
                "--priors": priors,
                "--classification": classification,
                "--protocol": changed(protocol, "auto"),
                "--set": overrides,
                "--out": out,
                "--against": against,
                "--concepts": changed(concepts, False),
                "--asked": changed(asked, 0),
                "--confirm": changed(confirm, 0),
            },
            "scores detections; you passed --priors-only. Remove it.",
        )
        run_prior = run_config(run).prior if run else None
        answer.figures(show_prior_report(answer, data, rho, limit, run_prior))
        return
    if rho is not None or limit is not None:
        raise UserError("--rho and --limit apply only to --priors-only; add it, or remove them.")
    if (run is None) == (detections is None):
        raise UserError("expected either a run folder or --detections RESULTS.json to score.")
    scored = run or detections
    assert scored is not None
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder.")
    if out is not None and run is not None:
        require_own_evaluation(out, run)
    if run is None:
        refuse_unused(
            {
                "--priors": priors,
                "--classification": classification,
                "--set": overrides,
                "--out": out,
                "--asked": changed(asked, 0),
                "--confirm": changed(confirm, 0),
            },
            "applies only to a run; you passed --detections. Remove it.",
        )
    if against is not None:
        refuse_unused(
            {"--out": out, "--concepts": changed(concepts, False), "--asked": changed(asked, 0)}
            | {"--confirm": changed(confirm, 0)},
            "applies only to a single run; you passed --against. Remove it.",
        )
        if not against.exists():
            raise UserError(f"--against {against}: no such run folder or results file; check the name.")
        if not resamples:
            raise UserError("--resamples 0: expected at least 1 with --against, which compares resamples.")
        comparison = compare_runs(
            scored,
            against,
            data,
            protocol=protocol,
            priors=priors,
            classification=classification,
            overrides=overrides or (),
            engine=engine,
            device=device,
            resamples=resamples,
            progress=progress,
        )
        protocol_name = comparison.a.protocol
        title = f"{scored} (A) against {against} (B) on {data}, protocol {protocol_name}, in percent"
        answer.table(title, ["figure", "A", "B", "B - A", "p", ""], comparison.rows())
        answer.figures(comparison.as_dict())
        return
    if detections is not None:
        index = open_index(data)
        found = read_results(detections, index, progress=progress)
        metrics = evaluate_detections(
            index, found, engine=engine, protocol=protocol, resamples=resamples, progress=progress
        )
    else:
        metrics = evaluate_run(
            scored,
            data,
            priors=priors,
            classification=classification,
            overrides=overrides or (),
            engine=engine,
            protocol=protocol,
            device=device,
            resamples=resamples,
            out=out,
            asked=asked,
            confirm=confirmation(scored, confirm, device, teacher),
            progress=progress,
        )
    title = f"{scored} on {data}, protocol {metrics.protocol}, in percent"
    named = metrics.figures.get("requests")
    answer.table(title, ["figure", "value"], metrics.rows() + (headline_rows(named) if named else []))
    objects = metrics.figures.get("novel_objects")
    if objects and objects["objects"]:
        title = (
            f"{objects['objects']} annotated novel objects; kept: score {objects['threshold']:.2f} or more"
        )
        columns = ["found by a box", "kept", "called base", "called another novel", "called right"]
        names = ("recalled", "selected", "base", "novel", "correct")
        answer.table(title, columns, [[str(objects[name]) for name in names]])
    if concepts:
        answer.table("", ["concept", "split", "boxes", "AP50", "AP"], metrics.concept_rows())
    if asked:
        drawn = metrics.figures["asked"]
        title = (
            f"{counted(drawn['words'], 'word')} drawn {drawn['draws']} times, score "
            f"{drawn['threshold']:.2f} or more, percent; finds of words that a photo does not show: "
            f"{drawn['absent_finds_per_photo']:.3f} per photo"
        )
        answer.table(title, ["words", "precision", "recall", "F1", "finds"], request_rows(drawn))
    answer.figures(metrics.as_dict())
