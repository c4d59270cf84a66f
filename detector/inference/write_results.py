"""Write predictions to a folder in one of the formats of `cckt predict`."""

from __future__ import annotations

import contextlib
import filecmp
import os
from collections.abc import Sequence
from pathlib import Path

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.detector.inference.label_files import (
    label_names,
    readable,
    write_coco,
    write_csv,
    write_voc,
    write_yolo,
    write_yolo_card,
)
from cckt.detector.inference.prediction import Prediction

FORMATS = ("coco", "yolo", "voc", "csv")


def write_results(
    predictions: Sequence[Prediction],
    folder: Path,
    format: str,
    *,
    scores: bool = False,
    image_ids: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """Write at least one prediction to `folder` and return the path of the results.

    format: "coco" writes predictions.json (`write_coco`); "yolo" a data set of data.yaml, labels and images,
    whose photos are linked or copied; "voc" a folder Annotations; "csv" predictions.csv. scores: a sixth
    column in YOLO labels. image_ids, names: as for `write_coco`. Raises UserError for another format, and as
    `label_names` does.
    """
    if format not in FORMATS:
        raise UserError(f"format {format} is not known; expected one of {', '.join(FORMATS)}.")
    if format == "csv":
        return write_csv(predictions, folder / "predictions.csv")
    if format == "voc":
        write_voc(predictions, folder / "Annotations")
        return folder / "Annotations"
    if format == "yolo":
        card = write_yolo_card(predictions, folder / "data.yaml")  # first: it vouches for the labels
        write_yolo(predictions, folder / "labels", scores)
        _link_photos(predictions, folder / "images")
        return card
    return write_coco(predictions, folder / "predictions.json", image_ids, names)


def _link_photos(predictions: Sequence[Prediction], folder: Path) -> None:
    """Put the photos into a folder under the names of their labels: a hard link, else a copy."""
    folder.mkdir(parents=True, exist_ok=True)
    good = readable(predictions)
    for one, stem in zip(good, label_names([one.source for one in good]), strict=True):
        source = Path(one.source)
        target = folder / f"{stem}{source.suffix}"
        if not source.is_file():
            continue
        if not target.exists():
            with contextlib.suppress(OSError):  # without hard links, or on another disk
                os.link(source, target)
                continue
            write_bytes(target, read_regular(source))
        elif not target.samefile(source) and not filecmp.cmp(source, target, shallow=False):
            raise UserError(
                f"{target} is another photo than {source}, expected the same one; name another --out."
            )
