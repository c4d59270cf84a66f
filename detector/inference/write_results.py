"""Write predictions to a folder in one of the formats of `cckt predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cckt.cache_builder.base.errors import UserError
from cckt.detector.inference.prediction import (
    IMAGES_FILE,
    Prediction,
    write_coco,
    write_coco_images,
    write_csv,
    write_yolo,
)

FORMATS = ("coco", "yolo", "csv")


def write_results(predictions: Sequence[Prediction], folder: Path, format: str) -> Path:
    """Write at least one prediction to `folder` and return the path of the results.

    format: "coco" writes predictions.json and images.json, "yolo" a folder labels and classes.txt, "csv"
    predictions.csv. Raises UserError for another format, and as `write_yolo` does.
    """
    if format not in FORMATS:
        raise UserError(f"format {format} is not known; expected one of {', '.join(FORMATS)}.")
    if format == "csv":
        return write_csv(predictions, folder / "predictions.csv")
    if format == "yolo":
        write_yolo(predictions, folder / "labels")
        return folder / "labels"
    path = write_coco(predictions, folder / "predictions.json")
    write_coco_images(predictions, folder / IMAGES_FILE)
    return path
