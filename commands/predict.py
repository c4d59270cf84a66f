"""`cckt predict`: detect named concepts in photos and videos."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cckt.cache_builder.base.errors import UserError
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.engines.choice import ActorCpus, Actors, Address, Engine, ray_engine
from cckt.commands.options import DEVICE, Classification, Device, Json, Run, RunTeacher

PRIORS = {None: "config", "clip": "guide", "none": "none"}
"""Value of --priors -> `priors` of `Detector.stream`."""

SHOWN = 20
"""Photos whose detections are listed on the terminal; the files hold all."""


def predict(
    run: Run,
    photos: Annotated[
        list[str],
        typer.Argument(help="Photos, videos, folders or patterns; - reads their names from stdin."),
    ],
    vocabulary: Annotated[str, typer.Option(help='Concepts to detect: "forklift, pallet, tv|television".')],
    out: Annotated[Path, typer.Option(help="Folder for the predictions and pictures.")],
    teacher: RunTeacher = None,
    priors: Annotated[
        str | None,
        typer.Option(
            help="clip (the teacher estimates which concepts a photo holds) or none. Default: the run's."
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(help="Leave out lower scores. Default: the best threshold of the run's evaluation."),
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Keep detections of several concepts for one object.")
    ] = False,
    no_rivals: Annotated[
        bool,
        typer.Option(
            "--no-rivals",
            help="Score among the named concepts only, without the run's other base concepts.",
        ),
    ] = False,
    classification: Classification = None,
    format: Annotated[str, typer.Option(help="coco, yolo or csv.")] = "coco",
    every: Annotated[float, typer.Option(help="Seconds between two frames of a video.")] = 1.0,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Draw no pictures of the detections.")
    ] = False,
    device: Device = DEVICE,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    json: Json = None,
) -> None:
    """Detect the concepts you name in any photos."""
    from cckt import Detector, Vocabulary
    from cckt.detector.drawing.predict_files import predict_files
    from cckt.detector.inference.photo_sources import check_video, find_photos, is_video
    from cckt.detector.inference.prediction import label_names
    from cckt.detector.inference.result_folders import require_own_predictions
    from cckt.detector.inference.write_results import FORMATS, write_results

    concepts = Vocabulary.free(vocabulary)
    if priors not in PRIORS:
        raise UserError(f"--priors {priors} is not known; expected clip or none.")
    if format not in FORMATS:
        raise UserError(f"--format {format} is not known; expected coco, yolo or csv.")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder.")
    require_own_predictions(out, format)
    paths = find_photos(photos, sys.stdin if "-" in photos else ())
    if format == "yolo":
        label_names([str(path) for path in paths])
    for path in filter(is_video, paths):
        check_video(path, every)
    ray = ray_engine(engine, address, actors, actor_cpus)
    # Before work on a cluster, loading the run here finds mistakes; it needs no device.
    detector = Detector.load(run, "cpu" if ray and device == "auto" else device, teacher=teacher)
    began, progress = time.monotonic(), TerminalProgress()
    for note in detector.notes:
        progress.note(f"{run}: {note}")
    options: dict[str, Any] = {"classification": classification, "min_score": min_score}
    options |= {"multi_label": multi_label, "rivals": not no_rivals}
    options["priors"] = PRIORS[priors]
    pictures = None if no_pictures else out
    if ray is None:
        found = predict_files(
            detector, paths, concepts, pictures=pictures, every=every, progress=progress, **options
        )
    else:
        from cckt.commands.engines.spread import spread_predictions

        found = spread_predictions(
            ray,
            run,
            paths,
            concepts,
            device=device,
            teacher=teacher,
            pictures=pictures,
            progress=progress,
            options=options,
        )
    written = write_results(found, out, format)
    answer = Answer(json)
    for one in found[:SHOWN]:
        shown = one.distinct()
        names = [
            f"{'★ ' if novel else ''}{name} {score:.2f}"
            for name, score, novel in zip(shown.names, shown.scores, shown.novel, strict=True)
        ]
        answer.lines(f"{one.source}: {', '.join(names) or one.fault or 'nothing'}")
    total, rate = sum(map(len, found)), len(found) / (time.monotonic() - began)
    answer.lines(
        f"{total} detections in {len(found)} photos, {rate:.1f} images/s: {written}"
        + ("" if no_pictures else f"; pictures in {out}")
    )
    answer.figures({"photos": len(found), "finds": total, "images_per_second": rate, "out": out})
