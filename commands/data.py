"""`cckt data`: index a data set, divide one by photo, render one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cckt.cache_builder.base.errors import UserError, quoted
from cckt.commands.console import Answer, TerminalProgress
from cckt.commands.options import Json, Keep, NewData

if TYPE_CHECKING:
    from cckt.cache_builder.index.formats import AnnotationReader


def index(
    out: NewData,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON file in COCO format: COCO, LVIS, Objects365 or your own. Repeat it to merge files."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that the file names start from. Without --annotations, all its photos."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="coco-48-17, lvis, all-base, or a JSON file that names the base concepts.")
    ] = "all-base",
    keep: Keep = "all",
    exif: Annotated[
        str,
        typer.Option(
            help="Whether boxes refer to photos as their EXIF orientation turns them: apply, ignore, or auto."
        ),
    ] = "auto",
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Scale the boxes of photos that were resized.")
    ] = False,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Repair what can only mean one thing, and list the repairs.")
    ] = False,
    yolo: Annotated[
        Path | None, typer.Option(metavar="DATA.YAML", help="YOLO folder, instead of --annotations.")
    ] = None,
    voc: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pascal VOC folder, instead of --annotations.")
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(
            help="YOLO: train, val or test; default train. VOC: a list of ImageSets/Main; default all."
        ),
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Accept a COCO file without annotations.")
    ] = False,
    names: Annotated[
        str | None, typer.Option(help='Concepts of photos without annotations: "cat, dog".')
    ] = None,
    digests: Annotated[
        bool,
        typer.Option(
            "--digests/--no-digests",
            help="Record digests of the photos, so that columns of a later index can copy rows.",
        ),
    ] = True,
    json: Json = None,
) -> None:
    """Build the tables of a data set from its annotations."""
    from cckt.cache_builder.index import build_index

    source, images, read = _source(annotations, images, yolo, voc, subset, unlabelled, names)
    report = build_index(
        source,
        images,
        out,
        split,
        keep,
        TerminalProgress(),
        exif=exif,
        rescale=rescale,
        lenient=lenient,
        digests=digests,
        read=read,
    )
    answer = Answer(json)
    answer.lines(*report.lines())
    if images is None:
        answer.lines(
            "no images: this data set serves only cckt eval with --detections; --images adds the rest"
        )
    if not report.annotations:
        answer.lines("no boxes: this data set serves cckt cache images and cckt pseudo, not training")
    answer.figures(report.to_json())


def _source(
    annotations: list[Path] | None,
    images: Path | None,
    yolo: Path | None,
    voc: Path | None,
    subset: str | None,
    unlabelled: bool,
    names: str | None,
) -> tuple[list[Path], Path | None, AnnotationReader]:
    """Return what to read, the images folder and the reader of its format.

    Raises UserError where the options name no source, or several.
    """
    from cckt.cache_builder.index.formats.coco import read_coco
    from cckt.cache_builder.index.formats.image_folder import read_folder
    from cckt.cache_builder.index.formats.voc import read_voc, voc_images
    from cckt.cache_builder.index.formats.yolo import read_yolo, yolo_root

    named = {"--annotations": annotations, "--yolo": yolo, "--voc": voc}
    given = [option for option, value in named.items() if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} name several sources, expected one; leave out the others.")
    if names is not None and given:
        raise UserError(f"--names applies only to --images without annotations; you passed {given[0]}.")
    if subset is not None and (annotations or not given):
        raise UserError("--subset applies only to --yolo and --voc; remove it.")
    if unlabelled and (yolo or voc):
        raise UserError(f"--unlabelled applies only to --annotations and --images; you passed {given[0]}.")
    if yolo is not None:
        if images is not None:
            raise UserError(
                "--images does not apply to --yolo, whose data.yaml names its folders; remove it."
            )
        return [yolo], yolo_root(yolo), partial(read_yolo, subset=subset or "train")
    if voc is not None:
        return [voc], images or voc_images(voc), partial(read_voc, subset=subset)
    if annotations:
        return annotations, images, partial(read_coco, unlabelled=True) if unlabelled else read_coco
    if images is None:
        raise UserError(
            "no source is named; give --annotations FILE.json with --images FOLDER, --yolo DATA.YAML, --voc "
            "FOLDER, or only --images for photos without boxes."
        )
    concepts = [name.strip() for name in (names or "").split(",") if name.strip()]
    if names is not None and not concepts:
        raise UserError(
            f"--names {quoted(names)}: found no name, expected some, separated by commas, as in --names "
            "'cup, cat'; leave it out for photos without words."
        )
    return [images], images, partial(read_folder, names=concepts)


def split(
    source: Annotated[Path, typer.Argument(help="COCO-format JSON file, or data set folder.")],
    out: Annotated[Path, typer.Option(help="Folder for train.json and val.json.")],
    share: Annotated[float, typer.Option(help="Share of the photos that val.json holds out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same files.")] = 0,
    json: Json = None,
) -> None:
    """Hold out a share of the photos, stratified by concept: two COCO files without a common photo."""
    from cckt.cache_builder.index import hold_out

    report = hold_out(source, out, share, seed, TerminalProgress())
    answer = Answer(json)
    answer.lines(*report.lines())
    answer.figures(report.to_json())


def shapeworld(
    photos: Annotated[int, typer.Option(help="Number of photos.")],
    out: NewData,
    seed: Annotated[int, typer.Option(help="Seed; a photo depends only on the seed and its number.")] = 1,
    keep: Keep = "all",
    workers: Annotated[int | None, typer.Option(help="Processes that render. Default: one per core.")] = None,
    json: Json = None,
) -> None:
    """Render a shapeworld data set: photos, COCO annotations, split and index."""
    from cckt.shapeworld.dataset import make_dataset

    report = make_dataset(out, photos, seed, keep=keep, workers=workers, progress=TerminalProgress())
    answer = Answer(json)
    answer.lines(*report.lines())
    answer.figures(report.to_json())
