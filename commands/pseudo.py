"""`cckt pseudo`: a data set extended by a run's confident detections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.engines.choice import ActorCpus, Actors, Address, Engine, ray_engine
from cckt.commands.options import (
    DEVICE,
    Confirm,
    Device,
    Json,
    NewData,
    Priors,
    Run,
    RunTeacher,
    changed,
    refuse_unused,
)

if TYPE_CHECKING:
    from cckt.cache_builder.index import Index
    from cckt.detector.evaluation.detections import Detections


def pseudo(
    run: Run,
    data: Annotated[Path, typer.Option(help="Data set to extend; the run predicts on its photos.")],
    out: NewData,
    min_score: Annotated[float, typer.Option(help="Smallest score of a detection that becomes a box.")] = 0.9,
    base_only: Annotated[
        bool, typer.Option("--base-only", help="Add detections of base concepts only.")
    ] = False,
    priors: Priors = None,
    confirm: Confirm = 0,
    teacher: RunTeacher = None,
    device: Device = DEVICE,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    json: Json = None,
) -> None:
    """Make a data set that adds a run's confident detections as marked boxes, for self-training."""
    from cckt.api import confirmation
    from cckt.detector.evaluation.pseudo_labels import pseudo_index

    progress = TerminalProgress()
    ray = ray_engine(engine, address, actors, actor_cpus)
    if not confirm:
        refuse_unused({"--teacher": teacher}, "applies only with --confirm; remove it.")
    if ray is not None:
        refuse_unused(
            {"--confirm": changed(confirm, 0)}, "does not work with --engine ray; remove one of them."
        )

    def detect(index: Index) -> Detections:
        from cckt.commands.engines.spread import spread_detections

        assert ray is not None, "expected --engine ray"
        return spread_detections(ray, run, data, priors, len(index), device, progress)

    made = pseudo_index(
        run,
        data,
        out,
        min_score=min_score,
        splits=("base",) if base_only else ("base", "novel"),
        priors=priors,
        confirm=confirmation(run, confirm, device, teacher),
        device=device,
        progress=progress,
        detect=None if ray is None else detect,
    )
    answer = Answer(json)
    answer.lines(*made.lines())
    answer.figures(made.as_dict())
