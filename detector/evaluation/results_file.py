"""Read a COCO results file and check that it belongs to an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.index import Index, require_boxes_to_score
from cckt.cache_builder.vocabulary import normalise_name
from cckt.detector.evaluation.detections import Detections
from cckt.detector.inference.result_folders import IMAGES_FILE
from cckt.detector.runs.run_folder import read_json

DETECTIONS_FILE, METRICS_FILE = "detections.json", "metrics.json"
"""The two files of an evaluation's folder."""


def read_results(
    path: Path, index: Index, option: str = "--detections", progress: Progress | None = None
) -> Detections:
    """Read the detections of a results file for an index.

    The images and categories that `cckt predict` writes must have the names of the index, id by id.
    metrics.json next to it, written by `cckt eval`, causes a note if it names another index. option: the
    option that named the file, for messages. Raises UserError if the file is missing or malformed, if the
    names differ, and if the index has no box to score against.
    """
    require_boxes_to_score(index)
    detections = Detections.from_json(path, option)
    card = path.with_name(METRICS_FILE)
    by_eval = path.name == DETECTIONS_FILE and card.is_file()
    if not by_eval:  # the two commands may write into one folder
        check_names(path, index)
    if card.is_file():
        note_other_index(card, index, progress or Silent())
    return detections


def check_names(path: Path, index: Index) -> None:
    """Compare the images and categories of a results file, or of images.json next to it, with an index.

    `cckt predict` numbers categories by the given words and images by their order, so its ids fit an index
    only by chance: then other words, or words in another order, would be scored as if they were the index's.
    """
    names_file = path
    named = _read_names(names_file)
    if named is None:  # of an earlier version
        names_file = path.with_name(IMAGES_FILE)
        named = _read_names(names_file)
    if named is None:
        return
    step = (
        f"the ids in {path} are numbers of words and photos given to cckt predict; predict with "
        f"--data {quoted(index.folder)}, or score the run with cckt eval RUN --data {quoted(index.folder)}"
    )
    concepts = {concept.category_id: concept for concept in index.concepts}
    for number, name in named["categories"]:
        concept = concepts.get(number)
        known = () if concept is None else concept.every_name
        if normalise_name(name) not in map(normalise_name, known):
            expected = f"{concept.name!r}" if concept else f"one of the {len(concepts)} category ids"
            raise UserError(
                f"{names_file}: category {number} is {name!r}, expected {expected} of {index.folder}; {step}."
            )
    rows = {int(number): row for row, number in enumerate(index.image_ids)}
    for number, name in named["images"]:
        if number in rows and Path(name).name != Path(index.file_name(rows[number])).name:
            raise UserError(
                f"{names_file}: image {number} is {name!r}, expected {index.file_name(rows[number])!r} of "
                f"{index.folder}; {step}."
            )


def _read_names(path: Path) -> dict[str, list[tuple[int, str]]] | None:
    """Return (id, name) of the images and categories of images.json; None if cckt did not write the file."""
    try:
        content: Any = parse_json(read_regular(path))
        return {
            "categories": [(int(one["id"]), str(one["name"])) for one in content["categories"]],
            "images": [(int(one["id"]), str(one["file_name"])) for one in content["images"]],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_other_index(card: Path, index: Index, progress: Progress) -> None:
    """Report a note if the metrics.json next to a results file names another index than `index`."""
    figures = read_json(card, "figures written by cckt eval").get("figures") or {}
    known = figures.get("index_digest", index.digest)
    if known != index.digest:
        progress.note(
            f"{card}: these detections were made on {figures.get('data')} ({known}), and are scored on "
            f"{index.folder} ({index.digest})"
        )
