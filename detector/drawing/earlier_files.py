"""Files that earlier commands left in a folder of results, next to those of this command."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from cckt.cache_builder.base.errors import counted
from cckt.detector.drawing.products import Products, crop_paths, picture_path, video_path
from cckt.detector.inference.label_files import label_names, readable
from cckt.detector.inference.photo_sources import PICTURE, is_our_picture
from cckt.detector.inference.prediction import Prediction

TABLES = {"coco": "predictions.json", "csv": "predictions.csv", "yolo": "data.yaml"}
"""Format -> file with all results, or that describes them."""
LABELS = {"yolo": ("labels", ".txt"), "voc": ("Annotations", ".xml")}
"""Format -> folder and suffix of its label files."""


def earlier_files(
    folder: Path, found: Sequence[Prediction], format: str, products: Products, earlier: Collection[str]
) -> str:
    """Return a sentence on results in a folder that are not those of the predictions `found`; "" for none.

    format, products: what was written. earlier: formats of the results that were there before (`finished`).
    """
    if not earlier:
        return ""
    good = readable(found)
    stems = label_names([one.source for one in good]) if format in LABELS else []
    numbered = [(number, one) for number, one in enumerate(found, 1) if not one.fault]
    left = [name for kind, name in TABLES.items() if kind in earlier and kind != format]
    for kind, (name, suffix) in LABELS.items():
        own = {folder / name / f"{stem}{suffix}" for stem in stems} if kind == format else set()
        if kind in earlier:
            left += _counted((folder / name).glob(f"*{suffix}"), own, "file", f" in {name}")
    if "yolo" in earlier:
        linked = zip(good, stems, strict=True) if format == "yolo" else ()
        own = {folder / "images" / f"{stem}{Path(one.source).suffix}" for one, stem in linked}
        left += _counted((folder / "images").glob("*.*"), own, "file", " in images")
    own = {picture_path(folder, number, one.source) for number, one in numbered}
    own = own if products.pictures else set()
    left += _counted(filter(_is_numbered, folder.glob("*.*")), own, "picture")
    own = {path for number, one in numbered for path in crop_paths(folder / "crops", number, one)}
    own = own if products.crops else set()
    left += _counted(filter(_is_numbered, folder.glob("crops/*/*")), own, "crop")
    own = {Path(one.source) for one in good}
    left += _counted(filter(is_our_picture, folder.glob("frames/*.jpg")), own, "frame")
    own = {video_path(folder, one.source) for one in good} if products.videos else set()
    left += _counted(folder.glob("*-detections.mp4"), own, "annotated video")
    return f"{folder} also holds results of earlier commands: {', '.join(left)}" if left else ""


def _counted(paths: Iterable[Path], own: set[Path], kind: str, more: str = "") -> list[str]:
    """Return how many files are not of this command, as in ["3 files in labels"]; [] for none."""
    left = sum(path not in own for path in paths)
    return [counted(left, kind) + more] if left else []


def _is_numbered(path: Path) -> bool:
    """Return whether a file is a picture or a crop of ours."""
    return PICTURE.fullmatch(path.name) is not None and is_our_picture(path)
