"""`cckt quickstart`: the whole pipeline on shapeworld."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.constants import EXAMPLE_TEACHER
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import Json

NEXT_STEPS = f"""
Open {{out}}/predictions/sheet.png. All figures are in {{out}}/metrics.json. To detect other concepts:

  cckt predict {{out}}/run {{out}}/held-out/photos --vocabulary "umbrella, airplane, snowflake" --out finds

To train on your own photos, with annotations in COCO format and a teacher of open_clip:

  cckt data index --annotations train.json --images photos --split split.json --keep base --out caches/train
  cckt cache all caches/train --teacher {EXAMPLE_TEACHER}
  cckt train --recipe coco-48-17-r50 --train caches/train --out runs/mine

Before you train, `cckt doctor --recipe coco-48-17-r50 --data caches/train` checks whether everything fits."""


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for data, runs and pictures.")] = Path("quickstart"),
    full: Annotated[bool, typer.Option("--full", help="More photos and epochs: half an hour.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Also train on base boxes alone, for as many epochs.")
    ] = False,
    cckt: Annotated[
        bool, typer.Option("--cckt", help="Also train CCKT-Det, with priors of CLIP and of an MLLM.")
    ] = False,
    json: Json = None,
) -> None:
    """Render photos, cache a teacher, train a detector and test it on novel concepts, in ten minutes."""
    from cckt.detector.evaluation.metrics import LABELS, percent
    from cckt.detector.evaluation.protocols import SPLIT_FIGURES
    from cckt.quickstart import FULL, QUICK
    from cckt.quickstart import quickstart as run_quickstart

    answer = Answer(json)
    figures = run_quickstart(
        out,
        plan=FULL if full else QUICK,
        plain=plain,
        cckt=cckt,
        announce=answer.stage,
        progress=TerminalProgress(),
    )
    guided = figures["cckt"] or {}
    rows = [
        ("HD-OVD, named regions", figures),
        ("before, on base boxes alone", figures["base"]),
        ("base boxes, as many epochs", figures["plain"]),
        ("CCKT-Det, CLIP priors", guided),
        ("CCKT-Det, MLLM priors", guided.get("mllm")),
    ]
    answer.table(
        "On held-out photos, in percent",
        ["detector", *(LABELS[key] for key in SPLIT_FIGURES)],
        [[name, *(percent(row[key]) for key in SPLIT_FIGURES)] for name, row in rows if row],
    )
    answer.table(
        "cckt predict at its threshold, words drawn at random, in percent",
        ["words", "precision base", "novel", "recall base", "novel", "false finds of absent words"],
        [
            [
                str(one["words"]),
                *(
                    percent(one[split][figure])
                    for figure in ("precision", "recall")
                    for split in ("base", "novel")
                ),
                f"{one['absent_finds_per_photo']:.3f} per photo",
            ]
            for one in figures["asked"]
        ],
    )
    answer.table(
        "Time", ["stage", "seconds"], [(stage, f"{value:.0f}") for stage, value in figures["seconds"].items()]
    )
    answer.lines(*NEXT_STEPS.format(out=shlex.quote(str(out))).splitlines())
    answer.figures(figures)
