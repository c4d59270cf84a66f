"""`cckt predict`: detect named concepts in photos and videos."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cckt.cache_builder.base.errors import UserError, counted
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.engines.choice import ActorCpus, Actors, Address, Engine, ray_engine
from cckt.commands.options import (
    DEVICE,
    Classification,
    Confirm,
    Device,
    Json,
    Overrides,
    Run,
    RunTeacher,
    changed,
    refuse_unused,
)

PRIORS = {None: "config", "clip": "guide", "none": "none"}
"""Value of --priors -> `priors` of `Detector.stream`."""

SHOWN = 20
"""Photos whose detections are listed on the terminal; the files hold all."""


def predict(
    run: Run,
    photos: Annotated[
        list[str] | None,
        typer.Argument(help="Photos, videos, folders or patterns; - reads their names from stdin."),
    ] = None,
    *,
    vocabulary: Annotated[
        str | None, typer.Option(help='Concepts to detect: "forklift, pallet, tv|television".')
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data set whose photos, concepts and ids are used instead.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the predictions and pictures.")],
    text: Annotated[
        Path | None,
        typer.Option(help="Text embeddings of the concepts, one row each: .npy or .safetensors."),
    ] = None,
    teacher: RunTeacher = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also take the photos in subfolders.")
    ] = False,
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
    confirm: Confirm = 0,
    no_rivals: Annotated[
        bool,
        typer.Option(
            "--no-rivals",
            help="Score among the named concepts only, without the run's other base concepts.",
        ),
    ] = False,
    classification: Classification = None,
    nms: Annotated[
        float | None,
        typer.Option(help="IoU above which only the best box of a concept is kept. Default: the run's."),
    ] = None,
    top: Annotated[int | None, typer.Option(help="Most detections per photo. Default: the run's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Photos per forward pass. Default: the run's.")] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Also predict in windows of this many pixels per side, for small objects in large photos."
        ),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share by which the windows of --tile overlap. Default: 0.2.")
    ] = None,
    overrides: Overrides = None,
    format: Annotated[str, typer.Option(help="coco, yolo, voc or csv.")] = "coco",
    scores: Annotated[
        bool, typer.Option("--scores", help="Write the score as a sixth column of YOLO labels.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two frames of a video.")] = 1.0,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Draw no pictures of the detections.")
    ] = False,
    crops: Annotated[
        bool, typer.Option("--crops", help="Also save the crop of each detection, in a folder per concept.")
    ] = False,
    video: Annotated[
        bool, typer.Option("--video", help="Also write each video with its detections drawn.")
    ] = False,
    device: Device = DEVICE,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    json: Json = None,
) -> None:
    """Detect the concepts you name in any photos. The same command continues where it was stopped."""
    from cckt import Detector, Vocabulary
    from cckt.detector.drawing.earlier_files import earlier_files
    from cckt.detector.drawing.predict_files import predict_files
    from cckt.detector.drawing.products import Products
    from cckt.detector.evaluation.evaluate import override_config
    from cckt.detector.inference.input_set import input_set, read_text_table
    from cckt.detector.inference.journal import (
        Journal,
        finished,
        require_same_settings,
        settings_of,
        write_settings,
    )
    from cckt.detector.inference.label_files import label_names
    from cckt.detector.inference.photo_sources import check_every, check_video, is_video
    from cckt.detector.inference.result_folders import require_own_predictions
    from cckt.detector.inference.stages.windows import OVERLAP, Windows
    from cckt.detector.inference.vocabulary import with_splits
    from cckt.detector.inference.write_results import FORMATS, write_results

    concepts = None if vocabulary is None else Vocabulary.free(vocabulary)
    if priors not in PRIORS:
        raise UserError(f"--priors {priors} is not known; expected clip or none.")
    if format not in FORMATS:
        raise UserError(f"--format {format} is not known; expected coco, yolo, voc or csv.")
    if format != "yolo":
        refuse_unused({"--scores": changed(scores, False)}, "applies only to --format yolo; remove it.")
    windows = None if tile is None else Windows(tile, OVERLAP if overlap is None else overlap)
    if windows is None:
        refuse_unused({"--overlap": overlap}, "applies only with --tile; remove it.")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder.")
    require_own_predictions(out, format)
    listed = sys.stdin if "-" in (photos or []) else ()
    inputs = input_set(photos or [], listed, recursive, data, concepts, out)
    videos = [path for path in inputs.paths if is_video(path)]
    if format in ("yolo", "voc"):
        label_names([str(path) for path in inputs.paths], format)
    check_every(every)
    for path in videos:
        check_video(path, every)
    if video and not videos:
        raise UserError(
            f"--video draws the finds into videos, and none of the {counted(len(inputs.paths), 'photo')} is "
            "one; remove it, or name a video."
        )
    table = None if text is None else read_text_table(text, len(inputs.concepts))
    ray = ray_engine(engine, address, actors, actor_cpus)
    if ray is not None:
        refuse_unused(
            {
                "--data": data,
                "--text": text,
                "--set": overrides,
                "--crops": changed(crops, False),
                "--video": changed(video, False),
            },
            "does not work with --engine ray; remove one of them.",
        )
    # Before work on a cluster, loading the run here finds mistakes; it needs no device.
    detector = Detector.load(run, "cpu" if ray and device == "auto" else device, teacher=teacher)
    if overrides:
        config = override_config(detector.model.config, overrides)
        detector.model = replace(detector.model, config=config)
    began, progress = time.monotonic(), TerminalProgress()
    for note in (
        *inputs.notes,
        *(f"{run}: {one}" for one in detector.notes_for(confirm, classification, PRIORS[priors])),
    ):
        progress.note(note)
    options: dict[str, Any] = {
        "classification": classification,
        "min_score": min_score,
        "multi_label": multi_label,
        "rivals": not no_rivals,
        "confirm": confirm,
        "nms": nms,
        "top": top,
        "batch": batch,
        **({} if windows is None else {"tile": windows.side, "overlap": windows.overlap}),
        "priors": PRIORS[priors],
    }
    products = Products(
        None if no_pictures else out,
        out / ("images" if format == "yolo" else "frames") if videos and format != "csv" else None,
        out / "crops" if crops else None,
        out if video else None,
        1 / every,
    )
    words = with_splits(inputs.concepts, detector.facts.annotated)
    made = {"no_pictures": no_pictures, "crops": crops, "video": video, "scores": scores}
    known = settings_of(run, detector.model.config, words, inputs.paths, every, options, table, made)
    require_same_settings(out, known, format)
    most = max(batch or detector.model.config.inference.batch, 1)
    journal = Journal(out, known, words, most, inputs.paths) if ray is None else None
    try:
        if ray is None:
            found = predict_files(
                detector,
                inputs.paths,
                words,
                products=products,
                journal=journal,
                load=inputs.load,
                every=every,
                progress=progress,
                text=table,
                **options,
            )
        else:
            from cckt.commands.engines.spread import spread_predictions

            found = spread_predictions(
                ray,
                run,
                inputs.paths,
                words,
                device=device,
                teacher=teacher,
                pictures=products.pictures,
                progress=progress,
                options=options,
            )
        written = write_results(
            found, out, format, scores=scores, image_ids=inputs.image_ids, names=inputs.names
        )
    except UserError:
        if journal is not None:
            journal.close()
        raise
    left = earlier_files(out, found, format, products, finished(out))
    if left:
        progress.note(left)
    write_settings(out, known, format)
    if journal is not None:
        journal.remove()
    answer = Answer(json)
    for one in found[:SHOWN]:
        shown = one.distinct()
        names = [
            f"{'★ ' if novel else ''}{name} {score:.2f}"
            for name, score, novel in zip(shown.names, shown.scores, shown.novel, strict=True)
        ]
        answer.lines(f"{one.source}: {', '.join(names) or one.fault or 'nothing'}")
    if len(found) > SHOWN:
        answer.lines(f"... {SHOWN} listed, {len(found) - SHOWN} more")
    total, rate = sum(map(len, found)), len(found) / (time.monotonic() - began)
    answer.lines(
        f"{counted(total, 'detection')} in {counted(len(found), 'photo')}, "
        f"{rate:.1f} images/s: {written}" + ("" if no_pictures else f"; pictures in {out}")
    )
    answer.figures({"photos": len(found), "finds": total, "images_per_second": rate, "out": out})
