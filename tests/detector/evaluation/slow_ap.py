"""The COCO and LVIS protocols in plain, slow Python, as a reference for the engines.

Written from the protocol's definition: greedy matching by falling score, crowds and boxes out of the area
range ignored, precision made monotone and read at 101 recalls.
"""

from __future__ import annotations

from cckt.detector.evaluation.coco_engines import AREA_RANGES
from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.locate import LocatedDetections


def overlap(a: list[float], b: list[float], crowd: bool) -> float:
    wide = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    whole = a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - wide * high
    return wide * high / whole if whole > 0 else 0.0


def judge(
    truth: GroundTruth, found: list[dict], photo: int, concept: int, iou: float, area: int, limit: int
) -> tuple:
    """Return (score, is correct) of each detection that counts, and the number of boxes."""
    low, high = AREA_RANGES[area]
    boxes = [
        {"box": list(truth.boxes_xywh[m]), "crowd": bool(truth.crowd[m]), "ignore": False, "taken": False}
        | {"ignore": bool(truth.crowd[m]) or not low <= truth.areas[m] <= high}
        for m in range(len(truth.images))
        if truth.images[m] == photo and truth.concepts[m] == concept
    ]
    if truth.negative is not None and not boxes and not truth.negative[photo, concept]:
        return [], 0
    verdicts = []
    mine = sorted(
        (d for d in found if d["photo"] == photo and d["concept"] == concept), key=lambda d: -d["score"]
    )
    for one in mine[:limit]:
        best = None
        for wanted in (False, True):  # boxes that count come before ignored ones
            if best is not None:
                break
            least = min(iou, 1 - 1e-10)
            for box in boxes:
                if box["ignore"] != wanted or (box["taken"] and not box["crowd"]):
                    continue
                value = overlap(one["box"], box["box"], box["crowd"])
                if value >= least:
                    least, best = value, box
        if best is not None:
            best["taken"] = True
            if not best["ignore"]:
                verdicts.append((one["score"], True))
            continue
        size = one["box"][2] * one["box"][3]
        partial = truth.not_exhaustive is not None and truth.not_exhaustive[photo, concept]
        if low <= size <= high and not partial:
            verdicts.append((one["score"], False))
    return verdicts, sum(not box["ignore"] for box in boxes)


def average_precision(
    truth: GroundTruth, found: LocatedDetections, concept: int, iou: float, area: int = 0, limit: int = 100
) -> float:
    """Return the 101-point AP of one concept, -1 if it has no box."""
    listed = [
        {"photo": int(p), "concept": int(c), "score": float(s), "box": list(map(float, b))}
        for p, c, s, b in zip(found.images, found.concepts, found.scores, found.boxes_xywh, strict=True)
    ]
    if truth.negative is not None:  # LVIS: the best 300 of a photo, over all concepts
        listed = [
            one
            for photo in range(len(truth.image_ids))
            for one in sorted((d for d in listed if d["photo"] == photo), key=lambda d: -d["score"])[:300]
        ]
        limit = 300
    verdicts, positives = [], 0
    for photo in range(len(truth.image_ids)):
        more, boxes = judge(truth, listed, photo, concept, iou, area, limit)
        verdicts += more
        positives += boxes
    if not positives:
        return -1.0
    verdicts.sort(key=lambda verdict: -verdict[0])
    curve, right = [], 0
    for number, (_, is_right) in enumerate(verdicts, 1):
        right += is_right
        curve.append((right / positives, right / number))
    total = 0.0
    for step in range(101):
        total += max((p for r, p in curve if r >= step / 100 - 1e-12), default=0.0)
    return total / 101
