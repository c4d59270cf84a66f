"""Read boxes from a COCO results file: `cckt cache proposals --import`."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, counted, quoted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index
from cckt.cache_builder.index.formats.json_stream import JsonRecords

SLACK = 0.02
"""A box may reach over its photo by this share of the side, and by 2 pixels: detectors round; it is "
"clipped."""


@dataclass(frozen=True)
class ResultBoxes:
    """The S boxes of a results file, in order of image rows; of an image in the order of the file."""

    offsets: NDArray[np.int64]
    """(I + 1,): boxes of image row i are [offsets[i], offsets[i + 1])."""
    box_xyxy: NDArray[np.float64]
    """(S, 4) in pixels; may reach over the image a little."""
    scores: NDArray[np.float64]
    """(S,)"""
    digest: str
    """Of the file."""

    def of_image(self, image: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return boxes (n, 4) and scores (n,) of an image row."""
        part = slice(int(self.offsets[image]), int(self.offsets[image + 1]))
        return self.box_xyxy[part], self.scores[part]


def read_boxes(path: Path, index: Index, progress: Progress) -> ResultBoxes:
    """Read a COCO results file, record by record: a list of {image_id, bbox [x, y, width, height], score}.

    The annotations of a COCO data set with scores, as `cckt predict` writes it, are read too. Other keys,
    such as category_id, are ignored: proposals have no class.

    Raises UserError for a missing or broken file, a record without these keys, ids of images that the index
    does not have, values that are not finite, negative sides, boxes outside of their image, and a file
    without boxes.
    """
    ids, values, record = array("q"), array("d"), None
    stream = JsonRecords(path, progress)
    for key, record in stream.records():
        if key == "images":
            _check_name(record, path, index)
            continue
        number = len(ids)
        if key and isinstance(record, dict) and "score" not in record:
            raise UserError(
                f"--import {path}: entry {number} is an annotation without a score, expected detections; "
                "name a file that a detector wrote, such as the predictions.json of a prediction with --data."
            )
        try:
            found = _numbers(record)
            ids.append(record["image_id"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"--import {path}: entry {number} is {_short(record)}, expected image_id (a whole number), "
                "bbox (left, top, width, height) and score, all finite; repair or remove such entries."
            ) from None
        values.extend(found)
    if not ids:
        raise UserError(f"--import {path}: the list is empty, expected detections; name another file.")
    table = np.frombuffer(values, np.float64).reshape(-1, 5)
    images = _rows_of(np.frombuffer(ids, np.int64), path, index)
    corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    _check_boxes(table, corners, images, path, index)
    order = np.argsort(images, kind="stable")
    offsets = np.searchsorted(images[order], np.arange(len(index) + 1)).astype(np.int64)
    return ResultBoxes(offsets, corners[order], table[order, 4], stream.digest)


def _check_name(image: Any, path: Path, index: Index) -> None:
    """Raise UserError for an image of a data set whose id is another photo's in the index.

    `cckt predict` without --data numbers photos by their order.
    """
    ident, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
    if not isinstance(ident, int) or not isinstance(name, str):
        return
    try:
        known = index.file_name(index.image_row(ident))
    except KeyError:
        return  # no detection may name it, which `_rows_of` sees
    if Path(name).name != Path(known).name:
        raise UserError(
            f"--import {path}: image {ident} is {name!r}, expected {known!r} of {index.folder}; predict with "
            f"--data {quoted(index.folder)}, so that the ids are those of this data set."
        )


def _numbers(record: Any) -> list[float]:
    """Return left, top, width, height and score of a record; ValueError or TypeError if they are none."""
    numbers = [*record["bbox"], record["score"]]
    if isinstance(record["image_id"], bool) or len(numbers) != 5:
        raise ValueError
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        raise TypeError
    if not np.isfinite(numbers).all():
        raise ValueError
    return [float(one) for one in numbers]


def _rows_of(ids: NDArray[np.int64], path: Path, index: Index) -> NDArray[np.int64]:
    """Return the (S,) image rows of image ids."""
    rows = np.searchsorted(index.image_ids, ids)
    rows[rows == len(index)] = 0
    unknown = np.unique(ids[index.image_ids[rows] != ids]) if len(index) else np.unique(ids)
    if len(unknown):
        raise UserError(
            f"--import {path}: {len(unknown)} image ids are not in {index.folder} (the first is "
            f"{unknown[0]}), expected detections on the images of this data set; name the file that was "
            "made on them, or index the data set whose images these are."
        )
    return rows.astype(np.int64)


def _check_boxes(
    table: NDArray[np.float64],
    corners: NDArray[np.float64],
    images: NDArray[np.int64],
    path: Path,
    index: Index,
) -> None:
    """Raise UserError for negative sides, and for boxes that leave their image."""
    negative = np.flatnonzero((table[:, 2:4] < 0).any(1))
    if len(negative):
        first = int(negative[0])
        raise UserError(
            f"--import {path}: the box of entry {first} is {table[first, :4].tolist()} "
            f"({counted(len(negative), 'such box', 'such boxes')}), "
            "expected left, top, width and height with sides of at least 0; convert corner boxes."
        )
    extent = np.stack([index.widths[images], index.heights[images]], axis=1).astype(np.float64)
    slack = np.maximum(2.0, SLACK * extent)
    outside = np.flatnonzero(((corners[:, :2] < -slack) | (corners[:, 2:] > extent + slack)).any(1))
    if len(outside):
        first = int(outside[0])
        size = f"{extent[first, 0]:.0f} x {extent[first, 1]:.0f}"
        raise UserError(
            f"--import {path}: the box of entry {first} is {table[first, :4].tolist()} in an image of "
            f"{size} px ({counted(len(outside), 'such box', 'such boxes')}), expected boxes inside their "
            "image, in pixels of the "
            "original photo; convert corner boxes to left, top, width and height, or undo the resizing of "
            "the detector."
        )


def _short(record: Any) -> str:
    text = repr(record)
    return text if len(text) <= 80 else text[:77] + "..."
