"""Options of `cckt cache` that say who makes the chunks: engines, parts and job scripts."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cckt.cache_builder.base.errors import UserError
from cckt.commands.console import Answer
from cckt.commands.options import refuse_unused

if TYPE_CHECKING:
    from cckt.cache_builder.runner.engines.ray import RayEngine

Engine = Annotated[str, typer.Option(help="local, or ray to use every node of a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT. Default: one of this machine."),
]
Actors = Annotated[
    int | None, typer.Option(help="Most Ray workers. Default: as many as the nodes have room for.")
]
ActorCpus = Annotated[
    int | None, typer.Option(help="Cores of a Ray worker. Default: up to 4, or a GPU's share of its node.")
]
ExactPart = Annotated[
    bool, typer.Option("--exact-part", help="Make the chunks of --part only, and none of other parts.")
]
PrintSbatch = Annotated[
    bool, typer.Option("--print-sbatch", help="Print a Slurm job script for this command; make nothing.")
]

MOST_TASKS = 32
"""Tasks of a job array at most; each takes chunks as it goes, so the number is not critical."""


def ray_engine(
    engine: str, address: str | None, actors: int | None, actor_cpus: int | None
) -> RayEngine | None:
    """Return the engine of `--engine ray`; None for `--engine local`.

    Raises UserError for an unknown engine and for options that do not apply to it.
    """
    if engine == "local":
        refuse_unused(
            {"--address": address, "--actors": actors, "--actor-cpus": actor_cpus},
            "applies only to --engine ray; add it, or remove the option.",
        )
        return None
    if engine != "ray":
        raise UserError(f"--engine {engine} is not known; expected local or ray.")
    from cckt.cache_builder.runner.engines.ray import RayEngine

    return RayEngine(address, actors, actor_cpus)


def caller(
    engine: str, address: str | None, actors: int | None, actor_cpus: int | None, part: str | None = None
) -> Callable[..., Any]:
    """Return call(function, *arguments, **keywords), which runs a maker with the engine of a command.

    Raises UserError as `ray_engine`, and if `--part` is passed with `--engine ray`.
    """
    ray = ray_engine(engine, address, actors, actor_cpus)
    if ray is None:
        return lambda function, *arguments, **keywords: function(*arguments, **keywords)
    refuse_unused({"--part": part}, "does not apply to --engine ray, which divides the work; remove it.")
    return ray.call


def print_sbatch(
    context: typer.Context, data: Path, columns: Sequence[tuple[str, str, int]], out: str | None
) -> None:
    """Print the script that submits a job array of this command, and a job that finishes its columns.

    columns: of each column its name, its table ("images", or a value of --of) and the rows of its chunks.
    """
    from cckt.cache_builder.columns.crops import box_table
    from cckt.cache_builder.index import open_index

    index = open_index(data)
    rows = {
        table: len(index) if table == "images" else len(box_table(data, index, table).box_images)
        for _, table, _ in columns
    }
    chunks = {name: -(-rows[table] // size) for name, table, size in columns}
    tasks = max(1, min(MOST_TASKS, *chunks.values()))
    command = _command(context)
    name = command[2]
    finish = shlex.join(["cckt", "cache", "finish", out or str(data), *chunks])
    held = ", ".join(f"{count} of {column}" for column, count in chunks.items())
    part = "--part ${SLURM_ARRAY_TASK_ID}/" + str(tasks)
    Answer().lines(
        "#!/bin/bash",
        f"# Chunks: {held}. Submit with: bash FILE. Adjust time, GPUs and cores to your cluster.",
        "set -euo pipefail",
        "ARRAY_JOB=$(sbatch --parsable <<'JOB'",
        "#!/bin/bash",
        f"#SBATCH --job-name={name} --array=0-{tasks - 1} --gres=gpu:1 --cpus-per-task=8 --time=02:00:00",
        "#SBATCH --requeue",
        f"{shlex.join(command)} {part}",
        "JOB",
        ")",
        f"sbatch --dependency=afterany:$ARRAY_JOB --wrap {shlex.quote(finish)}",
    )


def _command(context: typer.Context) -> list[str]:
    """The command line of a context without --print-sbatch and --part, with absolute local paths."""
    words, options = context.command_path.split(), []
    words[0] = "cckt"
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in ("print_script", "part"):
            continue
        given = context.params[name]
        for value in given if isinstance(given, list | tuple) else [given]:
            text = str(value.absolute()) if isinstance(value, Path) else str(value)
            if parameter.param_type_name == "argument":
                words.append(text)
            else:
                options += [parameter.opts[0]] if value is True else [parameter.opts[0], text]
    return words + options
