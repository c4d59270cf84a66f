"""`cckt cache priors`: cache how likely each concept is in each image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.constants import PRECISION, TAU
from cckt.cache_builder.base.errors import UserError
from cckt.commands.console import Answer, TerminalProgress, show_report_lines, show_reports
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
    Limit,
    Name,
    Overwrite,
    Part,
    Precision,
    Reuse,
    ReuseFrom,
    Rho,
    Strict,
    Tau,
    Workers,
    changed,
    parse_part,
    refuse_unused,
)
from cckt.commands.prior_report import show_prior_report


def priors(
    context: typer.Context,
    data: Data,
    tau: Tau = TAU,
    name: Name = "",
    mllm: Annotated[bool, typer.Option("--mllm", help="Query a multimodal LLM instead of CLIP.")] = False,
    mllm_model: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of the LLM. Default: shapeworld's for its data, else a small one."
        ),
    ] = None,
    mllm_prompt: Annotated[
        str | None, typer.Option(help="Question to the LLM; {concept} stands for the name.")
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Questions per forward pass of the LLM. Default: chosen by cost.")
    ] = None,
    prefilter: Annotated[
        str | None,
        typer.Option(metavar="clip:K", help="Query the LLM only for the K concepts that CLIP ranks first."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Training data set on whose base concepts the LLM's answers are calibrated."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the repository of the LLM.")
    ] = False,
    workers: Workers = None,
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
    reuse_from: ReuseFrom = None,
    out: ColumnOut = None,
    report: Annotated[
        bool, typer.Option("--report", help="Measure all priors of the data set against its annotations.")
    ] = False,
    rho: Rho = None,
    limit: Limit = None,
    json: Json = None,
) -> None:
    """Cache concept probabilities per image, from the columns images and text or from a multimodal LLM."""
    from cckt.cache_builder.columns.clip_priors import CHUNK_ROWS as CLIP_ROWS
    from cckt.cache_builder.columns.clip_priors import cache_clip_priors
    from cckt.cache_builder.columns.mllm_priors import CHUNK_ROWS as MLLM_ROWS
    from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors
    from cckt.cache_builder.mllm.questions import PROMPT
    from cckt.cache_builder.store import ColumnName

    if not report and (rho is not None or limit is not None):
        raise UserError("--rho and --limit apply only to the report; add --report, or remove them.")
    if report and out is not None:
        raise UserError(
            f"--report measures the columns in {data}, but --out {out} writes this column elsewhere; remove "
            "one of the two options."
        )
    run = caller(engine, address, actors, actor_cpus, part)
    if print_script:
        size = MLLM_ROWS if mllm or mllm_model is not None else CLIP_ROWS
        column = "priors/mllm" if size == MLLM_ROWS else str(ColumnName("priors/clip", name))
        print_sbatch(context, data, [(column, "images", size)], out)
        return
    if mllm or mllm_model is not None:
        refuse_unused(
            {"--name": changed(name, ""), "--tau": changed(tau, TAU)},
            f"applies only to CLIP priors; you passed {'--mllm' if mllm else '--mllm-model'}. Remove it.",
        )
        made = run(
            cache_mllm_priors,
            data,
            mllm_model,
            prompt=PROMPT if mllm_prompt is None else mllm_prompt,
            device=device,
            dtype=precision,
            block=block,
            prefilter=prefilter,
            calibrate=calibrate,
            trust_remote_code=trust_remote_code,
            workers=workers,
            strict=strict,
            part=parse_part(part, exact_part),
            overwrite=overwrite,
            reuse=reuse,
            reuse_from=reuse_from,
            out=out,
            progress=TerminalProgress(),
        )
    else:
        refuse_unused(
            {
                "--mllm-prompt": mllm_prompt,
                "--block": block,
                "--prefilter": prefilter,
                "--calibrate": calibrate,
                "--precision": changed(precision, PRECISION),
                "--trust-remote-code": changed(trust_remote_code, False),
                "--reuse": changed(reuse, REUSE),
                "--reuse-from": reuse_from,
            },
            "applies only to a multimodal LLM; add --mllm, or remove it.",
        )
        made = run(
            cache_clip_priors,
            data,
            name=name,
            tau=tau,
            part=parse_part(part, exact_part),
            overwrite=overwrite,
            out=out,
            progress=TerminalProgress(),
        )
    if not report:
        show_reports(json, made)
        return
    answer = Answer(json)
    show_report_lines(answer, made)
    if made.manifest is None:
        raise UserError(
            f"--report needs the finished column {made.name}, but other parts still have chunks to make; "
            "run it again after the last part."
        )
    answer.figures(made.to_json() | {"report": show_prior_report(answer, data, rho, limit)})
