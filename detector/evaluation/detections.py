"""Detections as four columns, read from and written to COCO results files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.constants import EXACT
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.detector.runs.file_digests import check_recorded

_KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True)
class Detections:
    """K detections in their given order, which decides between equal scores.

    image_ids: (K,) int64, ids of the data set (not rows).
    category_ids: (K,) int64, ids of the data set (not concept rows).
    scores: (K,) float64, not rounded: rounding makes ties, and ties change AP.
    boxes_xywh: (K, 4) float64, left, top, width, height in pixels of the original image; width, height >= 0.

    Raises UserError for non-finite scores or boxes, and for a negative width or height. Duplicates are
    allowed: the protocol counts all but one as false positives.
    """

    image_ids: npt.NDArray[np.int64]
    category_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    boxes_xywh: npt.NDArray[np.float64]
    source: str = "the detections"
    """The file they came from, for messages."""

    def __post_init__(self) -> None:
        """Convert the columns to their dtypes and check their values."""
        n = len(self.scores)
        object.__setattr__(self, "image_ids", np.asarray(self.image_ids, np.int64).reshape(-1))
        object.__setattr__(self, "category_ids", np.asarray(self.category_ids, np.int64).reshape(-1))
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float64).reshape(-1))
        object.__setattr__(self, "boxes_xywh", np.asarray(self.boxes_xywh, np.float64).reshape(-1, 4))
        lengths = {n, len(self.image_ids), len(self.category_ids), len(self.boxes_xywh)}
        assert len(lengths) == 1, f"expected columns of one length, found {sorted(lengths)}"
        bad = np.flatnonzero(~np.isfinite(self.scores))
        if bad.size:
            raise UserError(
                f"{self.source}: detection {bad[0]} of image {self.image_ids[bad[0]]} has the score "
                f"{self.scores[bad[0]]}, expected a finite number ({counted(bad.size, 'such score')}); "
                "remove or "
                "repair these entries."
            )
        wrong = ~np.isfinite(self.boxes_xywh).all(1) | (self.boxes_xywh[:, 2:] < 0).any(1)
        bad = np.flatnonzero(wrong)
        if bad.size:
            raise UserError(
                f"{self.source}: detection {bad[0]} of image {self.image_ids[bad[0]]} has the box "
                f"{self.boxes_xywh[bad[0]].tolist()}, expected finite [left, top, width, height] with width "
                f"and height at least 0 ({counted(bad.size, 'such box', 'such boxes')}); convert corner "
                "boxes, or remove these "
                "entries."
            )

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.scores)

    @staticmethod
    def empty() -> Detections:
        """Return zero detections."""
        return Detections(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty((0, 4)))

    def by_image(self) -> Detections:
        """Return the detections by ascending image id, those of an image in their order."""
        return self.where(np.argsort(self.image_ids, kind="stable"))

    @staticmethod
    def join(parts: Iterable[Detections]) -> Detections:
        """Concatenate several, in their order."""
        parts = [Detections.empty(), *parts]
        return Detections(
            np.concatenate([p.image_ids for p in parts]),
            np.concatenate([p.category_ids for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.boxes_xywh for p in parts]),
        )

    def where(self, keep: npt.NDArray[Any]) -> Detections:
        """Return the detections selected by a mask or an array of positions."""
        return Detections(
            self.image_ids[keep],
            self.category_ids[keep],
            self.scores[keep],
            self.boxes_xywh[keep],
            self.source,
        )

    @staticmethod
    def from_json(path: Path | str, option: str = "--detections") -> Detections:
        """Read a COCO results file: a list of {image_id, category_id, bbox [x, y, w, h], score}.

        A COCO data set whose annotations have scores, as `cckt predict` writes it, is read too. Other keys
        (segmentation, id, ...) are ignored. option: the option that named the file, for messages. Raises
        UserError if the file is missing, is not JSON or is not such a list. `read_results` also checks that
        the file belongs to an index.
        """
        path = Path(path)
        check_recorded(path)
        try:
            records = parse_json(read_regular(path))
        except OSError as error:
            raise UserError(
                f"{option} {path} cannot be read ({error.strerror}); give a file in COCO results format."
            ) from None
        except ValueError as error:
            raise UserError(
                f"{option} {path} is not JSON ({error}); give a file in COCO results format."
            ) from None
        if isinstance(records, dict) and isinstance(records.get("annotations"), list):
            records = records["annotations"]
        if not isinstance(records, list):
            raise UserError(
                f"{option} {path} holds a {type(records).__name__}, expected a list of detections with "
                f"{', '.join(_KEYS)}; give a file in COCO results format, not an annotation file."
            )
        return Detections._from_records(records, str(path))

    @staticmethod
    def _from_records(records: list[Any], source: str) -> Detections:
        for number, record in enumerate(records):
            if not isinstance(record, dict) or any(key not in record for key in _KEYS):
                lacks = [k for k in _KEYS if k not in record] if isinstance(record, dict) else list(_KEYS)
                raise UserError(
                    f"{source}: entry {number} lacks {', '.join(lacks)}, expected detections with "
                    f"{', '.join(_KEYS)}; write a file in COCO results format."
                )
        try:
            # Value by value, so that the ids 1.5 and "7" are refused and not converted.
            image_ids = np.array([_as_id(record["image_id"]) for record in records], np.int64)
            category_ids = np.array([_as_id(record["category_id"]) for record in records], np.int64)
            scores = _numbers([record["score"] for record in records])
            boxes = _numbers([record["bbox"] for record in records]).reshape(-1, 4)
            if len(boxes) != len(records):
                raise ValueError("a bbox does not have 4 numbers")
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{source}: a detection is malformed ({error}), expected integer ids, a score and a bbox of "
                "4 numbers in every entry; repair or remove this entry."
            ) from None
        return Detections(image_ids, category_ids, scores, boxes, source)

    def to_records(self) -> list[dict[str, Any]]:
        """Return the COCO results format: one dict per detection, with Python numbers."""
        columns = zip(
            self.image_ids.tolist(),
            self.category_ids.tolist(),
            self.boxes_xywh.tolist(),
            self.scores.tolist(),
            strict=True,
        )
        return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in columns]

    def to_json(self, path: Path | str) -> Path:
        """Write a COCO results file atomically; reading it gives the same bits."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(self.to_records(), separators=(",", ":")).encode())
        return path


def _as_id(value: Any) -> int:
    rounded = isinstance(value, float) and not abs(value) < EXACT  # it may stand for another id
    if isinstance(value, bool) or rounded or int(value) != value:
        raise ValueError(f"{value!r} is not an id")
    return int(value)


def _numbers(values: list[Any]) -> npt.NDArray[np.float64]:
    found = np.array(values)  # no dtype here: it would convert "0.5" and true to numbers
    if values and found.dtype.kind not in "iuf":
        raise ValueError("a score or a bbox is not numeric, or a bbox does not have 4 numbers")
    return found.astype(np.float64)
