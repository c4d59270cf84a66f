"""`cckt quickstart`: the whole pipeline on shapeworld."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import EXAMPLE_TEACHER, Json

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
        bool, typer.Option("--plain", help="Also train the last detector on base boxes alone.")
    ] = False,
    mllm: Annotated[
        bool, typer.Option("--mllm", help="Also score CCKT-Det with priors of a multimodal LLM.")
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
        mllm="shapeworld" if mllm else None,
        announce=answer.stage,
        progress=TerminalProgress(),
    )
    first, alone = figures["first"], "base boxes alone"
    guided = "CCKT-Det, CLIP priors"
    rows = [
        ("HD-OVD, named regions" if first else guided, figures),
        (guided, first),
        ("CCKT-Det, MLLM priors", figures["mllm"]),
        (alone if first else "without the method", figures["plain"]),
        (
            "base boxes alone, with CLIP priors" if first else "without the method, weighted by priors",
            figures["plain"] and figures["plain"]["weighed"],
        ),
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
