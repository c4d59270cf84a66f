"""Checks that a results folder holds nothing that `cckt predict` or `cckt eval` may not replace.

Call them before the work, so that a refusal costs nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.ownership import (
    json_mark,
    json_object,
    require_ours_or_absent,
    require_own_folder,
    text_mark,
)
from cckt.detector.inference.label_files import DESCRIPTION
from cckt.detector.runs.file_digests import DIGESTS_FILE

PREDICTED = "a result of cckt predict"
IMAGES_FILE = "images.json"
"""Written next to predictions.json by earlier versions."""
_LABEL = re.compile(rb"[0-9]+( -?[0-9]+\.[0-9]{6}){5}\n")
"""First line of our label files with scores. Without scores they look like anyone's: data.yaml vouches."""
_IS_OURS = text_mark(DESCRIPTION)
_IS_TABLE = text_mark("photo,concept,category_id,novel,score,")


def require_own_evaluation(folder: Path, run: Path) -> None:
    """Raise UserError unless metrics.json and detections.json are absent or an evaluation of this run.

    Runs are compared by the names of their folders, so that a run may be moved. An evaluation inside the run
    is of it, whatever name the run had. Also raises UserError if the disk has no room.
    """
    inside = folder.resolve().parent == run.resolve()

    def of_run(path: Path) -> bool:
        figures = json_object(path).get("figures")
        known = figures.get("run") if isinstance(figures, dict) else None
        return isinstance(known, str) and (inside or Path(known).resolve().name == run.resolve().name)

    require_own_folder(
        folder,
        "metrics.json",
        of_run,
        ["detections.json", DIGESTS_FILE],
        f"an evaluation of {run} by cckt eval",
    )
    require_room(folder)


def require_own_predictions(folder: Path, format: str) -> None:
    """Raise UserError unless the files of a format (see `write_results`) are absent or ours.

    Also raises UserError if the disk has no room.
    """
    if format == "coco":
        earlier = json_mark("images", "categories")(folder / IMAGES_FILE)
        require_ours_or_absent(folder / "predictions.json", lambda path: earlier or _IS_OURS(path), PREDICTED)
    elif format == "csv":
        require_ours_or_absent(folder / "predictions.csv", _IS_TABLE, PREDICTED)
    elif format == "voc":
        for path in sorted((folder / "Annotations").glob("*.xml")):
            require_ours_or_absent(path, _IS_OURS, PREDICTED)
    else:
        require_ours_or_absent(folder / "data.yaml", _IS_OURS, PREDICTED)
        vouched = (folder / "data.yaml").is_file()
        labels = sorted((folder / "labels").glob("*.txt"))
        for path in labels:
            require_ours_or_absent(path, lambda path: vouched or _is_label(path), PREDICTED)
        require_ours_or_absent(folder / "classes.txt", lambda path: bool(labels), PREDICTED)
    require_room(folder)


def _is_label(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _LABEL.fullmatch(file.readline(200)) is not None
    except OSError:
        return False
