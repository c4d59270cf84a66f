"""Precision and recall by the COCO protocol, from hotcoco (fast) or pycocotools (reference).

The results of both engines are equal.

Both receive image and concept numbers counted from 1, because pycocotools uses 0 for "unmatched", instead of
the ids of the data set. hotcoco implements the federated rules of LVIS; for pycocotools they are added here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.errors import UserError
from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.locate import LocatedDetections, keep_best_per_image, keep_verified

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ("all", "small", "medium", "large")
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
COCO_MAX_DETS = (1, 10, 100)
LVIS_MAX_DETS = 300


@dataclass(frozen=True)
class Curves:
    """Precision at each recall, before any mean.

    precision: (10 IoU, 101 recall, C, 4 areas, M) float64, -1 if the concept has no box of that size.
    recall: (10 IoU, C, 4 areas, M) float64, -1 likewise. max_dets: M limits on the detections per image; the
    headline figures use the last.
    """

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    max_dets: tuple[int, ...]


def curves(truth: GroundTruth, found: LocatedDetections, engine: str = "hotcoco") -> Curves:
    """Return the curves of detections. engine: "hotcoco" or "pycocotools"; UserError for any other."""
    engines: dict[str, Callable[[GroundTruth, LocatedDetections], Curves]] = {
        "hotcoco": _hotcoco,
        "pycocotools": _pycocotools,
    }
    if engine not in engines:
        raise UserError(f"--engine {engine} is not known; expected one of {', '.join(engines)}.")
    if truth.federated:
        found = keep_best_per_image(found, LVIS_MAX_DETS)
    return engines[engine](truth, found)


def _image_records(truth: GroundTruth) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for number, (width, height) in enumerate(zip(truth.widths.tolist(), truth.heights.tolist(), strict=True)):
        record: dict[str, Any] = {"id": number + 1, "width": width, "height": height, "file_name": ""}
        if truth.negative is not None and truth.not_exhaustive is not None:
            record["neg_category_ids"] = (np.flatnonzero(truth.negative[number]) + 1).tolist()
            record["not_exhaustive_category_ids"] = (
                np.flatnonzero(truth.not_exhaustive[number]) + 1
            ).tolist()
        records.append(record)
    return records


def _category_records(truth: GroundTruth) -> list[dict[str, Any]]:
    return [
        {"id": number + 1, "name": name, "frequency": frequency or "f"}
        for number, (name, frequency) in enumerate(zip(truth.names, truth.frequencies, strict=True))
    ]


def _hotcoco(truth: GroundTruth, found: LocatedDetections) -> Curves:
    import hotcoco

    dataset = hotcoco.COCO.from_arrays(
        _image_records(truth),
        _category_records(truth),
        truth.images + 1,
        truth.concepts + 1,
        truth.boxes_xywh,
        ids=np.arange(1, len(truth.images) + 1),
        area=truth.areas,
        iscrowd=truth.crowd,
    )
    columns = (found.images + 1, found.boxes_xywh, found.scores, found.concepts + 1)
    results = dataset.load_res(np.column_stack(columns).astype(np.float64))
    evaluation = hotcoco.COCOeval(dataset, results, "bbox", lvis_style=truth.federated)
    evaluation.evaluate()
    evaluation.accumulate()
    max_dets = tuple(int(limit) for limit in evaluation.params.max_dets)
    tables = evaluation.eval
    assert tables is not None
    return Curves(np.asarray(tables["precision"]), np.asarray(tables["recall"]), max_dets)


def _pycocotools(truth: GroundTruth, found: LocatedDetections) -> Curves:
    from pycocotools.coco import COCO

    kept = keep_verified(found, truth) if truth.federated else found
    # pycocotools prints to stdout, which the command line uses for tables and JSON.
    with contextlib.redirect_stdout(io.StringIO()):
        dataset, results = COCO(), COCO()
        images, categories = _image_records(truth), _category_records(truth)
        dataset.dataset = {"images": images, "categories": categories, "annotations": _truth_records(truth)}
        results.dataset = {"images": images, "categories": categories, "annotations": _found_records(kept)}
        dataset.createIndex()
        results.createIndex()
        evaluation = _evaluator()(dataset, results, "bbox")
        if truth.federated:
            evaluation.params.maxDets = [LVIS_MAX_DETS]
            evaluation.not_exhaustive = truth.not_exhaustive
        evaluation.evaluate()
        evaluation.accumulate()
    max_dets = tuple(int(limit) for limit in evaluation.params.maxDets)
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"], max_dets)


def _truth_records(truth: GroundTruth) -> list[dict[str, Any]]:
    columns = zip(
        truth.images.tolist(),
        truth.concepts.tolist(),
        truth.boxes_xywh.tolist(),
        truth.areas.tolist(),
        truth.crowd.tolist(),
        strict=True,
    )
    return [
        {"id": n, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (i, c, box, area, crowd) in enumerate(columns, start=1)
    ]


def _found_records(found: LocatedDetections) -> list[dict[str, Any]]:
    columns = zip(
        found.images.tolist(),
        found.concepts.tolist(),
        found.boxes_xywh.tolist(),
        found.scores.tolist(),
        strict=True,
    )
    return [
        {
            "id": n,
            "image_id": i + 1,
            "category_id": c + 1,
            "bbox": box,
            "score": score,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for n, (i, c, box, score) in enumerate(columns, start=1)
    ]


def _evaluator() -> Any:
    """Return COCOeval with an attribute `not_exhaustive`: unmatched detections there are ignored (LVIS)."""
    from pycocotools.cocoeval import COCOeval

    class Evaluator(COCOeval):  # type: ignore[misc]
        not_exhaustive: npt.NDArray[np.bool_] | None = None

        def evaluateImg(self, image: int, category: int, area: Any, limit: int) -> Any:
            """Evaluate one image and concept; ignore unmatched detections if its boxes are incomplete."""
            record = super().evaluateImg(image, category, area, limit)
            if record and self.not_exhaustive is not None and self.not_exhaustive[image - 1, category - 1]:
                record["dtIgnore"] = np.logical_or(record["dtIgnore"], record["dtMatches"] == 0)
            return record

    return Evaluator
