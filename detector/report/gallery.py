"""Photos worth looking at: novel things that were found, missed, and seen where there are none."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cckt.cache_builder.index import Index
from cckt.cache_builder.photos import BadPhoto, load_photo
from cckt.detector.evaluation.ground_truth import GroundTruth, Rows
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import iou
from cckt.detector.report.errors import FOUND, NEAR

SIDE = 440
"""Pixels of the long side of a photo in the report; smaller photos stay as they are."""
MOST = 25
"""Finds shown in a photo."""


@dataclass(frozen=True)
class Seen:
    """What a run shows in one photo: finds from its threshold up, one for each thing, surest first.

    boxes: (K, 4) xywh px; concepts, scores: (K,); right: (K,) bool, its concept lies there at IoU 0.5.
    """

    boxes: np.ndarray
    concepts: Rows
    scores: np.ndarray
    right: np.ndarray


def seen_in(truth: GroundTruth, found: LocatedDetections, photo: int, threshold: float) -> Seen:
    """The finds of a photo that a person would be shown."""
    rows = np.flatnonzero((found.images == photo) & (found.scores >= threshold))
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    none = np.zeros(0, bool)
    kept: list[int] = []
    for row in rows.tolist():
        if len(kept) == MOST:
            break
        here = found.boxes_xywh[[row]]
        if not kept or iou(here, found.boxes_xywh[kept], np.zeros(len(kept), bool)).max() <= 0.7:
            kept.append(row)
    picked = np.array(kept, np.int64)
    mine = np.flatnonzero(truth.images == photo)
    right = np.zeros(len(picked), bool)
    if len(mine) and len(picked):
        overlap = iou(found.boxes_xywh[picked], truth.boxes_xywh[mine], truth.crowd[mine])
        same = found.concepts[picked][:, None] == truth.concepts[mine][None]
        right = ((overlap >= FOUND) & same).any(1)
    else:
        right = np.resize(none, len(picked))
    return Seen(found.boxes_xywh[picked], found.concepts[picked], found.scores[picked], right)


def choose(
    truth: GroundTruth, found: LocatedDetections, threshold: float, *, most: int
) -> list[tuple[str, int, str]]:
    """(kind, photo, concept's name) of up to `most` photos, each once.

    "find": a novel box under a sure find of its concept, surest first. "miss": a novel box without, largest
    share of its photo first. "false": a sure find of a novel concept where nothing of it is. Concepts take
    turns, so that a frequent one does not fill the page.
    """
    found = found.where(found.scores >= threshold)
    novel = truth.in_split("novel")
    scored: dict[str, list[tuple[float, int, int]]] = {"find": [], "miss": [], "false": []}
    photos = np.unique(
        np.concatenate([truth.images[novel[truth.concepts]], found.images[_sure(found, novel, threshold)]])
    )
    for photo in photos.tolist():
        seen = seen_in(truth, found, photo, threshold)
        mine = np.flatnonzero((truth.images == photo) & ~truth.crowd)
        overlap = iou(seen.boxes, truth.boxes_xywh[mine], np.zeros(len(mine), bool))
        same = seen.concepts[:, None] == truth.concepts[mine][None]
        for at, box in enumerate(mine.tolist()):
            concept = int(truth.concepts[box])
            if not novel[concept]:
                continue
            hits = np.flatnonzero((overlap[:, at] >= FOUND) & same[:, at])
            if len(hits):
                scored["find"].append((float(seen.scores[hits].max()), photo, concept))
            else:
                area = float(truth.boxes_xywh[box, 2] * truth.boxes_xywh[box, 3])
                share = area / float(truth.widths[photo] * truth.heights[photo])
                scored["miss"].append((share, photo, concept))
        for number in np.flatnonzero(novel[seen.concepts] & ~seen.right).tolist():
            near = (overlap[number] >= NEAR) & same[number] if len(mine) else np.zeros(0, bool)
            if not near.any():
                scored["false"].append((float(seen.scores[number]), photo, int(seen.concepts[number])))
    answer: list[tuple[str, int, str]] = []
    used: set[int] = set()
    for kind, share in (("find", 0.4), ("miss", 0.4), ("false", 0.2)):
        for photo, concept in _in_turns(scored[kind], used, round(most * share)):
            answer.append((kind, photo, truth.names[concept]))
    return answer


def _sure(found: LocatedDetections, novel: np.ndarray, threshold: float) -> np.ndarray:
    sure: np.ndarray = novel[found.concepts] & (found.scores >= threshold)
    return sure


def _in_turns(scored: list[tuple[float, int, int]], used: set[int], most: int) -> list[tuple[int, int]]:
    """(photo, concept) by falling score, concepts in turns, photos that are not used yet."""
    lines: dict[int, list[int]] = {}
    for _, photo, concept in sorted(scored, key=lambda one: (-one[0], one[1:])):
        lines.setdefault(concept, []).append(photo)
    answer: list[tuple[int, int]] = []
    while lines and len(answer) < most:
        for concept in list(lines):
            free = [photo for photo in lines[concept] if photo not in used]
            if not free:
                del lines[concept]
            elif len(answer) < most:
                answer.append((free[0], concept))
                used.add(free[0])
                lines[concept] = free[1:]
    return answer


def tiles(
    index: Index, truth: GroundTruth, runs: Sequence[tuple[LocatedDetections, float]], *, most: int
) -> list[dict[str, Any]]:
    """The gallery: photos chosen by the first run, with what is there and what every run shows there."""
    answer = []
    for kind, photo, concept in choose(truth, *runs[0], most=most):
        try:
            size = (int(truth.widths[photo]), int(truth.heights[photo]))
            picture = load_photo(index.photo_path(photo), size)
        except BadPhoto:
            continue
        mine = np.flatnonzero(truth.images == photo)
        novel = truth.in_split("novel")
        sides = np.array([*size, *size], np.float64)
        there = [
            {
                "box": (truth.boxes_xywh[row] / sides).round(4).tolist(),
                "name": truth.names[truth.concepts[row]],
                "novel": bool(novel[truth.concepts[row]]),
                "crowd": bool(truth.crowd[row]),
            }
            for row in mine
        ]
        shown = []
        for found, threshold in runs:
            seen = seen_in(truth, found, photo, threshold)
            shown.append(
                [
                    {
                        "box": (box / sides).round(4).tolist(),
                        "name": truth.names[number],
                        "novel": bool(novel[number]),
                        "score": round(float(score), 3),
                        "right": bool(right),
                    }
                    for box, number, score, right in zip(
                        seen.boxes, seen.concepts, seen.scores, seen.right, strict=True
                    )
                ]
            )
        answer.append(
            {
                "kind": kind,
                "concept": concept,
                "file": index.file_name(photo),
                "width": size[0],
                "height": size[1],
                "picture": data_url(picture),
                "truth": there,
                "runs": shown,
            }
        )
    return answer


def data_url(picture: Image.Image) -> str:
    """A photo as text that a page can hold."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    memory = io.BytesIO()
    small.save(memory, "JPEG", quality=84, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(memory.getvalue()).decode()
