"""The evaluation engine against pycocotools: the same figures, how much faster.

    python benchmarks/evaluate.py [--photos 5000] [--detections 500000] [--seed 0] [--threads 1]

Made-up boxes and detections (near boxes, nowhere, duplicated, with tied scores; crowds for COCO, checked and
incomplete pairs for LVIS). Prints one JSON line; seconds are of one run each:

    speedup_vs_pycocotools   80 concepts by COCO's rules. pycocotools' clock starts when its dictionaries and
                             indices are ready, ours at plain arrays; both end at the precision table
    speedup_lvis             1,203 concepts, federated, against our second implementation over pycocotools
    max_abs_difference       over all stats of both, and AP and AP50 of every concept
    hotcoco_s, pycocotools_s, lvis_s, lvis_pycocotools_s, photos, detections, boxes, lvis_boxes, cores
    records_s, lvis_records_s, intervals_s, lvis_intervals_s
                             what else `cckt eval` computes: matching at ten IoU thresholds, 1,000 resamples
    threads                  of our engine; pycocotools has one. --threads 1: one core against one core
    peak_gib                 largest resident memory of the whole benchmark, mostly pycocotools's dictionaries
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import time

import numpy as np

from cckt.detector.evaluation.bootstrap import intervals, thresholds_for
from cckt.detector.evaluation.coco_engines import curves
from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import match_detections
from cckt.detector.evaluation.metrics import Metrics, summarise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(given.threads)  # read by hotcoco when it is first used
    rng = np.random.default_rng(given.seed)
    coco = made_up_truth(rng, given.photos, 80, boxes=7 * given.photos, federated=False)
    lvis = made_up_truth(rng, given.photos, 1203, boxes=12 * given.photos, federated=True)
    answer: dict[str, float | int] = {"photos": given.photos, "detections": given.detections}
    answer |= {"boxes": len(coco.images), "lvis_boxes": len(lvis.images), "cores": os.cpu_count() or 1}
    answer["threads"] = given.threads
    worst = 0.0
    for truth, word in ((coco, ""), (lvis, "lvis_")):
        found = made_up_found(rng, truth, given.detections)
        curves(truth, found.where(slice(0, 100)), "hotcoco")  # imported and warm
        began = time.perf_counter()
        fast = curves(truth, found, "hotcoco")
        answer["hotcoco_s" if not word else "lvis_s"] = seconds = time.perf_counter() - began
        began = time.perf_counter()
        slow = curves(truth, found, "pycocotools")
        whole = time.perf_counter() - began
        if not word:
            whole = pycocotools_alone(truth, found)
        answer[f"{word}pycocotools_s"] = whole
        answer["speedup_lvis" if word else "speedup_vs_pycocotools"] = whole / seconds
        figures = [summarise(truth, one, detections=given.detections, engine="") for one in (fast, slow)]
        worst = max(worst, float(np.abs(listed(figures[0]) - listed(figures[1])).max()))
        # What `cckt eval` computes besides: who found what, and how sure the figures are.
        began = time.perf_counter()
        records = match_detections(truth, found, thresholds_for(truth))
        answer[f"{word}records_s"] = time.perf_counter() - began
        began = time.perf_counter()
        intervals(truth, records, resamples=1000)
        answer[f"{word}intervals_s"] = time.perf_counter() - began
    answer["max_abs_difference"] = worst
    answer["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {key: round(v, 3) if isinstance(v, float) and v > 1e-3 else v for key, v in answer.items()}
        )
    )


def listed(metrics: Metrics) -> np.ndarray:
    """Every figure as a vector; -1 where there is none."""
    rates = (metrics.ap_r, metrics.ap_c, metrics.ap_f)
    each = [value for one in metrics.per_concept for value in (one.ap, one.ap50, one.ap75)]
    return np.nan_to_num(np.array([*metrics.stats, *rates, *each]), nan=-1.0)


def pycocotools_alone(truth: GroundTruth, found: LocatedDetections) -> float:
    """Seconds of COCOeval's evaluate and accumulate on ready dictionaries."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        dataset, results = COCO(), COCO()
        shared = {
            "images": [{"id": n + 1} for n in range(len(truth.image_ids))],
            "categories": [{"id": n + 1, "name": name} for n, name in enumerate(truth.names)],
        }
        rows = zip(truth.images, truth.concepts, truth.boxes_xywh, truth.areas, truth.crowd, strict=True)
        dataset.dataset = shared | {
            "annotations": [
                {
                    "id": n,
                    "image_id": int(i) + 1,
                    "category_id": int(c) + 1,
                    "bbox": b.tolist(),
                    "area": float(a),
                    "iscrowd": int(crowd),
                }
                for n, (i, c, b, a, crowd) in enumerate(rows, 1)
            ]
        }
        columns = zip(found.images, found.concepts, found.boxes_xywh, found.scores, strict=True)
        results.dataset = shared | {
            "annotations": [
                {
                    "id": n,
                    "image_id": int(i) + 1,
                    "category_id": int(c) + 1,
                    "bbox": b.tolist(),
                    "area": float(b[2] * b[3]),
                    "iscrowd": 0,
                    "score": float(s),
                }
                for n, (i, c, b, s) in enumerate(columns, 1)
            ]
        }
        dataset.createIndex()
        results.createIndex()
        began = time.perf_counter()
        evaluation = COCOeval(dataset, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        return time.perf_counter() - began


def made_up_truth(
    rng: np.random.Generator, photos: int, concepts: int, boxes: int, federated: bool
) -> GroundTruth:
    """Boxes of all sizes; concepts as unequally frequent as in the real data sets."""
    images = np.sort(rng.integers(photos, size=boxes))
    share = 1 / np.arange(1, concepts + 1) ** 0.8
    numbers = rng.choice(concepts, size=boxes, p=share / share.sum())
    sides = np.exp(rng.normal(4.0, 1.0, (boxes, 2))).clip(4, 400)
    corner = rng.uniform(0, 1, (boxes, 2)) * (640 - sides).clip(1)
    xywh = np.concatenate([corner, sides], 1)
    annotated = np.zeros((photos, concepts), bool)
    annotated[images, numbers] = True
    return GroundTruth(
        image_ids=np.arange(photos),
        widths=np.full(photos, 640),
        heights=np.full(photos, 640),
        concept_rows=np.arange(concepts),
        category_ids=np.arange(concepts),
        names=tuple(f"concept {c}" for c in range(concepts)),
        splits=tuple("novel" if c % 4 == 0 else "base" for c in range(concepts)),
        frequencies=tuple("fcr"[3 * c // concepts] if federated else "" for c in range(concepts)),
        images=images,
        concepts=numbers,
        boxes_xywh=xywh,
        areas=xywh[:, 2] * xywh[:, 3] * rng.uniform(0.5, 1.0, boxes),
        crowd=(rng.random(boxes) < 0.01) & (not federated),
        negative=(rng.random((photos, concepts)) < 0.01) & ~annotated if federated else None,
        not_exhaustive=(rng.random((photos, concepts)) < 0.1) & annotated if federated else None,
    )


def made_up_found(rng: np.random.Generator, truth: GroundTruth, count: int) -> LocatedDetections:
    """Near boxes or nowhere, of the right concept or another, scores tied to three digits."""
    source = rng.integers(len(truth.images), size=count)
    spread = rng.choice([0.03, 0.1, 0.4], (count, 1)) * truth.boxes_xywh[source][:, 2:].repeat(2, 1)
    xywh = truth.boxes_xywh[source] + rng.normal(0, 1, (count, 4)) * spread
    xywh[:, 2:] = np.abs(xywh[:, 2:])
    own = rng.random(count) < 0.6
    elsewhere = rng.random(count) < 0.3
    return LocatedDetections(
        np.where(elsewhere, rng.integers(len(truth.image_ids), size=count), truth.images[source]),
        np.where(own, truth.concepts[source], rng.integers(len(truth.names), size=count)),
        (rng.beta(1, 3, count) + 0.3 * (own & ~elsewhere)).clip(0, 1).round(3),
        xywh,
    )


if __name__ == "__main__":
    main()
