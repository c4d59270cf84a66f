"""Choose example images of objects found, missed and falsely detected, and prepare them for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from PIL import Image

from cckt.cache_builder.index import Index
from cckt.cache_builder.photos import BadPhoto, load_photo
from cckt.detector.evaluation.ground_truth import GroundTruth, Rows
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import MATCH_IOU, iou
from cckt.detector.report.errors import NEAR_IOU

LONG_SIDE = 440
"""Long side of an image in the report in pixels; smaller images are not enlarged."""
MAX_SHOWN = 25
"""Most detections shown in an image."""
SAME_OBJECT_IOU = 0.7
"""Of detections that overlap more than this, only the best one is shown."""
SHARES = (("found", 0.3), ("missed", 0.25), ("false", 0.15), ("base missed", 0.15), ("base false", 0.15))
"""Kinds of examples, and their shares of the gallery; those without "base" are of novel concepts."""


@dataclass(frozen=True)
class ShownDetections:
    """The detections shown in one image, by falling score.

    boxes: (K, 4) xywh in pixels. concepts, scores: (K,). right: (K,) bool, whether a box of the concept
    overlaps with IoU of at least 0.5.
    """

    boxes: np.ndarray
    concepts: Rows
    scores: np.ndarray
    right: np.ndarray


def shown_detections(
    truth: GroundTruth, found: LocatedDetections, image: int, threshold: float
) -> ShownDetections:
    """Return the best detection of each object of an image, of those with a score of at least `threshold`."""
    rows = np.flatnonzero((found.images == image) & (found.scores >= threshold))
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    kept: list[int] = []
    for row in rows.tolist():
        if len(kept) == MAX_SHOWN:
            break
        box, no_crowds = found.boxes_xywh[[row]], np.zeros(len(kept), bool)
        if not kept or iou(box, found.boxes_xywh[kept], no_crowds).max() <= SAME_OBJECT_IOU:
            kept.append(row)
    picked = np.array(kept, np.int64)
    boxes = np.flatnonzero(truth.images == image)
    right = np.zeros(len(picked), bool)
    if len(boxes) and len(picked):
        overlap = iou(found.boxes_xywh[picked], truth.boxes_xywh[boxes], truth.crowd[boxes])
        same = found.concepts[picked][:, None] == truth.concepts[boxes][None]
        right = ((overlap >= MATCH_IOU) & same).any(1)
    return ShownDetections(found.boxes_xywh[picked], found.concepts[picked], found.scores[picked], right)


def choose_examples(
    truth: GroundTruth, found: LocatedDetections, threshold: float, *, most: int
) -> list[tuple[str, int, str]]:
    """Return (kind, image, name of the concept) of up to `most` images, each image once.

    "found": a novel box with a shown detection of its concept, highest score first. "missed": a novel box
    without one, largest share of the image first. "false": a shown detection of a novel concept that overlaps
    no box of it, highest score first. "base missed", "base false": the same of base concepts. Concepts
    alternate, so that a frequent one does not fill the page.
    """
    found = found.where(found.scores >= threshold)
    novel = truth.in_split("novel")
    candidates: dict[str, list[tuple[float, int, int]]] = {kind: [] for kind, _ in SHARES}
    base = truth.in_split("base")
    for image in np.unique(np.concatenate([truth.images, found.images])).tolist():
        shown = shown_detections(truth, found, image, threshold)
        boxes = np.flatnonzero((truth.images == image) & ~truth.crowd)
        overlap = iou(shown.boxes, truth.boxes_xywh[boxes], np.zeros(len(boxes), bool))
        same = shown.concepts[:, None] == truth.concepts[boxes][None]
        for column, box in enumerate(boxes.tolist()):
            concept = int(truth.concepts[box])
            if not novel[concept] and not base[concept]:
                continue
            hits = np.flatnonzero((overlap[:, column] >= MATCH_IOU) & same[:, column])
            if len(hits):
                if novel[concept]:
                    candidates["found"].append((float(shown.scores[hits].max()), image, concept))
            else:
                area = float(truth.boxes_xywh[box, 2] * truth.boxes_xywh[box, 3])
                share = area / float(truth.widths[image] * truth.heights[image])
                candidates["missed" if novel[concept] else "base missed"].append((share, image, concept))
        for row in np.flatnonzero((novel | base)[shown.concepts] & ~shown.right).tolist():
            near = (overlap[row] >= NEAR_IOU) & same[row] if len(boxes) else np.zeros(0, bool)
            if not near.any():
                concept = int(shown.concepts[row])
                kind = "false" if novel[concept] else "base false"
                candidates[kind].append((float(shown.scores[row]), image, concept))
    result: list[tuple[str, int, str]] = []
    used: set[int] = set()
    for kind, count in quotas(most).items():
        for image, concept in _alternate_concepts(candidates[kind], used, count):
            result.append((kind, image, truth.names[concept]))
    return result


def quotas(most: int) -> dict[str, int]:
    """Return the most images of each kind, `most` in all: the shares, rounded where they add up."""
    bounds = [0, *(round(most * part) for part in accumulate(share for _, share in SHARES))]
    return {kind: after - before for (kind, _), (before, after) in zip(SHARES, pairwise(bounds), strict=True)}


def _alternate_concepts(
    candidates: list[tuple[float, int, int]], used: set[int], most: int
) -> list[tuple[int, int]]:
    """Return up to `most` (image, concept), by falling value, concepts in turn.

    Images in `used` are skipped; the chosen ones are added to it.
    """
    queues: dict[int, list[int]] = {}
    for _, image, concept in sorted(candidates, key=lambda one: (-one[0], one[1:])):
        queues.setdefault(concept, []).append(image)
    result: list[tuple[int, int]] = []
    while queues and len(result) < most:
        for concept in list(queues):
            free = [image for image in queues[concept] if image not in used]
            if not free:
                del queues[concept]
            elif len(result) < most:
                result.append((free[0], concept))
                used.add(free[0])
                queues[concept] = free[1:]
    return result


def gallery_images(
    index: Index, truth: GroundTruth, runs: Sequence[tuple[LocatedDetections, float]], *, most: int
) -> list[dict[str, Any]]:
    """Return the page data of the gallery: image, annotations, and what every run shows.

    runs: detections and score threshold of each run. The first run chooses the images.
    """
    result = []
    for kind, image, concept in choose_examples(truth, *runs[0], most=most):
        try:
            size = (int(truth.widths[image]), int(truth.heights[image]))
            picture = load_photo(index.photo_path(image), size, exif=index.exif)
        except BadPhoto:
            continue
        boxes = np.flatnonzero(truth.images == image)
        novel = truth.in_split("novel")
        sides = np.array([*size, *size], np.float64)
        annotations = [
            {
                "box": (truth.boxes_xywh[row] / sides).round(4).tolist(),
                "name": truth.names[truth.concepts[row]],
                "novel": bool(novel[truth.concepts[row]]),
                "crowd": bool(truth.crowd[row]),
            }
            for row in boxes
        ]
        detections = []
        for found, threshold in runs:
            shown = shown_detections(truth, found, image, threshold)
            detections.append(
                [
                    {
                        "box": (box / sides).round(4).tolist(),
                        "name": truth.names[number],
                        "novel": bool(novel[number]),
                        "score": round(float(score), 3),
                        "right": bool(right),
                    }
                    for box, number, score, right in zip(
                        shown.boxes, shown.concepts, shown.scores, shown.right, strict=True
                    )
                ]
            )
        result.append(
            {
                "kind": kind,
                "concept": concept,
                "novel": not kind.startswith("base"),
                "file": index.file_name(image),
                "width": size[0],
                "height": size[1],
                "picture": data_url(picture),
                "truth": annotations,
                "runs": detections,
            }
        )
    return result


def data_url(picture: Image.Image) -> str:
    """Return a reduced image as a JPEG data URL."""
    small = picture.copy()
    small.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    memory = io.BytesIO()
    small.save(memory, "JPEG", quality=84, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(memory.getvalue()).decode()
