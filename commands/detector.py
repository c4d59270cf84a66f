"""The verbs `cckt eval` and `predict`: parse, call one function, show what it answers."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cckt.cache_builder.base.errors import UserError
from cckt.commands.cache import Device, Json
from cckt.commands.columns import Limit, Rho, refuse_idle, show_priors
from cckt.commands.console import Answer, TerminalProgress

if TYPE_CHECKING:
    from PIL import Image

    from cckt.detector.inference.prediction import Prediction

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change one option.")]


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A run's folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="The data set to score it on.")] = None,
    priors: Annotated[
        str | None, typer.Option(help="clip, mllm, oracle, corrupted or none; default the run's own.")
    ] = None,
    classification: Annotated[str | None, typer.Option(help="similarity, head or product.")] = None,
    protocol: Annotated[
        str, typer.Option(help="ov-coco, ov-lvis, coco, objects365, custom; auto looks at the data.")
    ] = "auto",
    engine: Annotated[str, typer.Option(help="hotcoco, or pycocotools, the oracle.")] = "hotcoco",
    resamples: Annotated[
        int, typer.Option(min=0, help="Bootstrap resamples of the photos for the intervals; 0 for none.")
    ] = 1000,
    against: Annotated[
        Path | None, typer.Option(help="Another run, or results file: does it differ from this one?")
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="Score this file in COCO results format instead of a run.")
    ] = None,
    concepts: Annotated[bool, typer.Option("--concepts", help="Show every concept too.")] = False,
    priors_only: Annotated[
        bool,
        typer.Option("--priors-only", help="Measure the data set's priors instead; a run lends rho and L."),
    ] = False,
    rho: Rho = None,
    limit: Limit = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; default in the run's folder.")] = None,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Score a run, or any detections, on a data set."""
    from cckt.cache_builder.index import open_index
    from cckt.detector.evaluation.compare_runs import compare_runs
    from cckt.detector.evaluation.detections import Detections
    from cckt.detector.evaluation.evaluate import evaluate_detections, evaluate_run, tell_other_index
    from cckt.detector.runs.run_folder import run_config

    if data is None:
        raise UserError("no data set is named; give --data FOLDER, one that cckt data index made.")
    answer, progress = Answer(json), TerminalProgress()
    if priors_only:
        answer.figures(show_priors(answer, data, rho, limit, run_config(run).prior if run else None))
        return
    if rho is not None or limit is not None:
        raise UserError("--rho and --limit are thresholds of --priors-only, which is not asked for; add it.")
    if (run is None) == (detections is None):
        raise UserError("expected one thing to score: a run's folder, or --detections RESULTS.json.")
    scored = run or detections
    assert scored is not None
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder.")
    if run is None:
        asked = {"--priors": priors, "--classification": classification, "--set": overrides, "--out": out}
        refuse_idle(asked, "is of a run, and a file of detections is scored; leave it out")
    if against is not None:
        idle = {"--out": out, "--concepts": concepts or None}
        refuse_idle(idle, "is of one run's figures, and two are compared; leave it out")
        if not against.exists():
            raise UserError(f"--against {against}: no such run's folder or results file; check the name.")
        if not resamples:
            raise UserError("--resamples 0: expected at least 1 with --against, whose answer they are.")
        duel = compare_runs(
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
        title = f"{scored} (A) against {against} (B) on {data}, in percent"
        answer.table(title, ["figure", "A", "B", "B - A", "p", ""], duel.rows())
        answer.figures(duel.as_dict())
        return
    if detections is not None:
        found, index = Detections.from_json(detections), open_index(data)
        tell_other_index(detections, index, progress)
        metrics = evaluate_detections(index, found, engine=engine, protocol=protocol, resamples=resamples)
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
            progress=progress,
        )
    answer.table(f"{scored} on {data}, in percent", ["figure", "value"], metrics.rows())
    if concepts:
        answer.table("", ["concept", "split", "boxes", "AP50", "AP"], metrics.concept_rows())
    answer.figures(metrics.as_dict())


def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    photos: Annotated[
        list[str], typer.Argument(help="Photos, videos, folders, patterns; - reads their names from stdin.")
    ],
    vocabulary: Annotated[str, typer.Option(help='What to find: "forklift, pallet, tv|television".')],
    out: Annotated[Path, typer.Option(help="Folder for predictions.json and the pictures.")],
    teacher: Annotated[str | None, typer.Option(help="Default: the one that the run learnt from.")] = None,
    priors: Annotated[
        str | None, typer.Option(help="clip: the teacher says what a photo may hold; none: nobody does.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out less sure finds; default what the run's evaluation found.")
    ] = None,
    classification: Annotated[str | None, typer.Option(help="similarity, head or product.")] = None,
    format: Annotated[str, typer.Option(help="coco, yolo or csv.")] = "coco",
    every: Annotated[float, typer.Option(help="Seconds between two frames of a video.")] = 1.0,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Write no pictures.")] = False,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Find what you name in any photos."""
    from cckt import Detector, Vocabulary
    from cckt.detector.inference.photo_sources import check_video, is_video, name_of
    from cckt.detector.inference.prediction import label_names

    words = Vocabulary.free(vocabulary)
    ways = {None: "config", "clip": "guide", "none": "none"}
    if priors not in ways:
        raise UserError(f"--priors {priors} is not known; expected clip or none.")
    if format not in ("coco", "yolo", "csv"):
        raise UserError(f"--format {format} is not known; expected coco, yolo or csv.")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder.")
    paths = photos_of(photos)
    if format == "yolo":
        label_names([str(path) for path in paths])
    for path in filter(is_video, paths):
        check_video(path, every)
    detector = Detector.load(run, device, teacher=teacher)
    progress, found, began = TerminalProgress(), [], time.monotonic()
    progress.start("predict", len(paths), "photos")
    options: dict[str, Any] = {
        "priors": ways[priors],
        "classification": classification,
        "min_score": min_score,
    }
    given, shown = tee(_pictures(paths, every, not no_pictures, progress))
    stream = detector.stream(given, words, strict=False, **options)
    for number, (photo, one) in enumerate(zip(shown, stream, strict=True), 1):
        if one.fault:
            progress.note(one.fault)
        elif not no_pictures and not isinstance(photo, Path):
            _draw(photo, one, out / f"{number:05d}-{name_of(one.source)}.png")
        found.append(one)
        progress.advance()
    progress.finish()
    if not found:
        raise UserError(f"{paths[0]}: no frame could be read; give another --every or other videos.")
    if all(one.fault for one in found):
        raise UserError(f"{found[0].fault}; none of the {len(found)} photos could be read, give others.")
    written = _write(found, out, format)
    answer = Answer(json)
    for one in found[:20]:
        finds = [f"{'★ ' if new else ''}{name} {score:.2f}" for name, score, new in _finds(one)]
        answer.say(f"{one.source}: {', '.join(finds) or one.fault or 'nothing'}")
    finds_in_all, rate = sum(len(one) for one in found), len(found) / (time.monotonic() - began)
    answer.say(
        f"{finds_in_all} finds in {len(found)} photos, {rate:.1f} images/s: {written}"
        + ("" if no_pictures else f"; pictures in {out}")
    )
    answer.figures({"photos": len(found), "finds": finds_in_all, "images_per_second": rate, "out": out})


def _pictures(
    paths: list[Path], every: float, opened: bool, progress: TerminalProgress
) -> Iterator[Path | Image.Image]:
    """Videos as their frames, photos as they are named or, to be decoded once for finding and drawing both,
    opened; one that cannot be is left to the detector, who says why.
    """
    from cckt.cache_builder.photos import BadPhoto, load_photo
    from cckt.detector.inference.photo_sources import is_video, video_frames

    for path in paths:
        if is_video(path):
            try:
                yield from video_frames(path, every)
            except UserError as fault:  # of this video: that any can be read was looked at before
                progress.note(str(fault))
            continue
        photo: Path | Image.Image = path
        if opened:
            with contextlib.suppress(BadPhoto, ValueError, OSError):
                photo = load_photo(path)
                vars(photo)["filename"] = str(path)
        yield photo


def _write(found: list[Prediction], out: Path, format: str) -> Path:
    from cckt.detector.inference.prediction import write_coco, write_csv, write_yolo

    if format == "csv":
        return write_csv(found, out / "predictions.csv")
    if format == "yolo":
        write_yolo(found, out / "labels")
        return out / "labels"
    write_coco(found, out / "predictions.json")
    _write_images(found, out / "images.json")
    return out / "predictions.json"


def _draw(photo: Image.Image, prediction: Prediction, picture: Path) -> None:
    from cckt.detector.drawing.draw import draw_prediction

    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_prediction(photo, prediction).save(picture)


def _write_images(found: list[Prediction], path: Path) -> None:
    """What the ids of predictions.json mean, as COCO's annotation files say it."""
    from cckt.cache_builder.base.atomic_files import write_json

    images = [
        {"id": number, "file_name": one.source, "width": one.size[0], "height": one.size[1]}
        for number, one in enumerate(found, 1)
    ]
    categories = [{"id": concept.category_id, "name": concept.name} for concept in found[0].vocabulary]
    write_json(path, {"images": images, "categories": categories})


def _finds(prediction: Prediction) -> list[tuple[str, float, bool]]:
    shown = prediction.distinct()
    return list(zip(shown.names, shown.scores.tolist(), shown.novel.tolist(), strict=True))


def photos_of(places: list[str]) -> list[Path]:
    """Photos and videos by name. UserError for what is not there."""
    from cckt.detector.inference.photo_sources import find_photos

    return find_photos(places, sys.stdin if "-" in places else ())
