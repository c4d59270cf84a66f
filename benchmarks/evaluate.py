"""Compare the evaluation engine with pycocotools: equal figures, less time.

Claim: the figures are equal and the time is several times shorter, on the same number of cores.
Peers: pycocotools for COCO; for LVIS, our second implementation on top of pycocotools.

    python benchmarks/evaluate.py [--photos 5000] [--detections 500000] [--seed 0] [--threads 1]

Boxes and detections are random: near boxes, elsewhere, duplicated, with tied scores; crowds for COCO,
negative and not exhaustive pairs for LVIS. Times are of one run each. Prints one JSON line:

    speedup_vs_pycocotools   80 concepts by the rules of COCO. The time of pycocotools starts when its
                             dictionaries and indices exist, ours at plain arrays; both end at the precision
                             table
    speedup_lvis             1,203 concepts by the rules of LVIS
    max_abs_difference       over all stats of both, and AP and AP50 of every concept
    hotcoco_s, pycocotools_s, lvis_s, lvis_pycocotools_s        times of the engines
    records_s, lvis_records_s, intervals_s, lvis_intervals_s    other work of `cckt eval`: matching at ten IoU
                             thresholds, 1,000 bootstrap resamples
    threads                  threads of our engine; pycocotools has one, so use --threads 1 to compare cores
    peak_gib                 peak resident memory of the benchmark, mostly the dictionaries of pycocotools
    photos, detections, boxes, lvis_boxes, cores
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
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)  # hotcoco reads it at its first use
    rng = np.random.default_rng(options.seed)
    coco = random_truth(rng, options.photos, 80, boxes=7 * options.photos, federated=False)
    lvis = random_truth(rng, options.photos, 1203, boxes=12 * options.photos, federated=True)
    figures: dict[str, float | int] = {"photos": options.photos, "detections": options.detections}
    figures |= {"boxes": len(coco.images), "lvis_boxes": len(lvis.images), "cores": os.cpu_count() or 1}
    figures["threads"] = options.threads
    worst = 0.0
    for truth, word in ((coco, ""), (lvis, "lvis_")):
        found = random_found(rng, truth, options.detections)
        curves(truth, found.where(slice(0, 100)), "hotcoco")  # import and warm up
        began = time.perf_counter()
        fast = curves(truth, found, "hotcoco")
        figures["hotcoco_s" if not word else "lvis_s"] = seconds = time.perf_counter() - began
        began = time.perf_counter()
        slow = curves(truth, found, "pycocotools")
        whole = time.perf_counter() - began
        if not word:
            whole = pycocotools_seconds(truth, found)
        figures[f"{word}pycocotools_s"] = whole
        figures["speedup_lvis" if word else "speedup_vs_pycocotools"] = whole / seconds
        both = [summarise(truth, one, detections=options.detections, engine="") for one in (fast, slow)]
        worst = max(worst, float(np.abs(as_vector(both[0]) - as_vector(both[1])).max()))
        # `cckt eval` also matches detections and computes intervals.
        began = time.perf_counter()
        records = match_detections(truth, found, thresholds_for(truth))
        figures[f"{word}records_s"] = time.perf_counter() - began
        began = time.perf_counter()
        intervals(truth, records, resamples=1000)
        figures[f"{word}intervals_s"] = time.perf_counter() - began
    figures["max_abs_difference"] = worst
    figures["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {key: round(v, 3) if isinstance(v, float) and v > 1e-3 else v for key, v in figures.items()}
        )
    )


def as_vector(metrics: Metrics) -> np.ndarray:
    """Return all figures as a vector; -1 for missing ones."""
    rates = (metrics.ap_r, metrics.ap_c, metrics.ap_f)
    each = [value for one in metrics.per_concept for value in (one.ap, one.ap50, one.ap75)]
    return np.nan_to_num(np.array([*metrics.stats, *rates, *each]), nan=-1.0)


def pycocotools_seconds(truth: GroundTruth, found: LocatedDetections) -> float:
    """Return the seconds of COCOeval's evaluate and accumulate; building its dictionaries does not count."""
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


def random_truth(
    rng: np.random.Generator, photos: int, concepts: int, boxes: int, federated: bool
) -> GroundTruth:
    """Return boxes of all sizes, with concept frequencies as uneven as in real data sets."""
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


def random_found(rng: np.random.Generator, truth: GroundTruth, count: int) -> LocatedDetections:
    """Return detections near boxes or elsewhere, of the right concept or another, with tied scores."""
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
