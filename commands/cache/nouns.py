"""`cckt cache nouns` and `fit-nouns`: name proposals, and fit the weight of a noun to the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.constants import CHOOSE, CROP, NAME_PROMPT, PRECISION, W_MAX
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
    TEACHER_HELP,
    Data,
    Device,
    Json,
    Name,
    Overwrite,
    Part,
    Precision,
    Reuse,
    Strict,
    Workers,
    changed,
    parse_part,
    refuse_unused,
)

OfProposals = Annotated[
    str, typer.Option("--of", metavar="TABLE", help="proposals, or proposals-NAME for a second table.")
]
WMax = Annotated[float, typer.Option("--w-max", help="Largest weight of a noun.")]
PROPOSALS = "proposals"


def nouns(
    context: typer.Context,
    data: Data,
    mllm_model: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of the LLM. Default: shapeworld's for its data, else a small one."
        ),
    ] = None,
    nouns_from: Annotated[
        Path | None, typer.Option(help="Choose from the words of a file, one a line, by CLIP; no LLM.")
    ] = None,
    choose: Annotated[
        str,
        typer.Option(
            metavar="answers|teacher",
            help="Who chooses the noun of a proposal: its own answer, or the teacher among all answers.",
        ),
    ] = CHOOSE,
    ask: Annotated[
        int | None,
        typer.Option(help="Proposals that the LLM names, with --choose teacher. Default: all."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help=f"{TEACHER_HELP} Default: that of proposals/crops, or of text.")
    ] = None,
    of: OfProposals = PROPOSALS,
    name: Name = "",
    prompt: Annotated[str, typer.Option(help="Request to the LLM.")] = NAME_PROMPT,
    crop: Annotated[
        str, typer.Option(help="What the LLM sees: box, or square for a larger square around the box.")
    ] = CROP,
    templates: Annotated[
        str | None,
        typer.Option(help="Prompt templates of the nouns, as for cckt cache text. Default: those of text."),
    ] = None,
    w_max: WMax = W_MAX,
    block: Annotated[
        int | None, typer.Option(help="Crops per forward pass of the LLM. Default: 16, 64 on CUDA.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the LLM.")
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
    json: Json = None,
) -> None:
    """Cache the noun of each proposal, its text embedding and its weight."""
    from cckt.cache_builder.columns.nouns.answers import CHUNK_ROWS
    from cckt.cache_builder.columns.nouns.cache import cache_nouns
    from cckt.cache_builder.proposals.nouns import ANSWERS
    from cckt.cache_builder.store import ColumnName

    if nouns_from is not None:
        refuse_unused(
            {
                "--mllm-model": mllm_model,
                "--prompt": changed(prompt, NAME_PROMPT),
                "--crop": changed(crop, CROP),
                "--choose": changed(choose, CHOOSE),
                "--ask": ask,
                "--block": block,
                "--trust-remote-code": changed(trust_remote_code, False),
                "--workers": workers,
                "--strict": changed(strict, False),
                "--reuse": changed(reuse, REUSE),
                "--engine": changed(engine, "local"),
                "--print-sbatch": changed(print_script, False),
            },
            "applies only to a multimodal LLM; you passed --nouns-from. Remove it.",
        )
    call = caller(engine, address, actors, actor_cpus, part)
    if print_script:
        answers = ColumnName(ANSWERS, of=of.partition("-")[2])
        print_sbatch(context, data, [(str(answers), of, CHUNK_ROWS)], None)
        return
    reports = call(
        cache_nouns,
        data,
        mllm_model,
        nouns_from=nouns_from,
        choose=choose,
        ask=ask,
        teacher=teacher,
        of=of,
        name=name,
        prompt=prompt,
        crop=crop,
        templates=templates,
        w_max=w_max,
        block=block,
        device=device,
        dtype=precision,
        trust_remote_code=trust_remote_code,
        workers=workers,
        strict=strict,
        part=parse_part(part, exact_part),
        overwrite=overwrite,
        reuse=reuse,
        progress=TerminalProgress(),
    )
    show_reports(json, *reports)


def fit_nouns(
    data: Data,
    of: OfProposals = PROPOSALS,
    name: Name = "",
    w_max: WMax = W_MAX,
    json: Json = None,
) -> None:
    """Fit the weight of a noun to the teacher again, and cache the weights of the proposals."""
    from cckt.cache_builder.columns.nouns import weights

    report = weights.fit_nouns(data, of=of, name=name, w_max=w_max, progress=TerminalProgress())
    show_reports(json, report)
