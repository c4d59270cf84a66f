"""Fit the calibration of scores on matched detections, and measure its error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.detector.inference.calibration import ScoreCalibration, log_odds
from cckt.detector.inference.own_evaluation import DEFAULT_THRESHOLD

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

FEWEST = 20
"""Correct detections that a split needs for its own map; with fewer, both splits share one."""
LEAST_PROBABILITY = 0.4
"""Lowest threshold. F1 is flat below it: the best one of a weak detector keeps mostly wrong detections."""
STEPS = 50
"""Newton steps of `fit_map`; it converges in about ten."""
BINS = 10
"""Bins of equal width of `calibration_error`."""


def fit_map(scores: Floats, right: Bools) -> tuple[float, float]:
    """Return (slope, offset): the probability of being right is sigma(slope * log-odds + offset).

    Logistic regression by Newton's method. A weak pull towards the identity (1, 0), as strong as a few
    detections, keeps the map finite if a score separates right from wrong. The slope is positive.
    """
    x = np.stack([log_odds(scores), np.ones(len(scores))], 1)
    y, weights, identity = right.astype(np.float64), np.array([1.0, 0.0]), np.array([1.0, 0.0])
    for _ in range(STEPS):
        p = 0.5 * (1 + np.tanh(0.5 * (x @ weights)))
        gradient = x.T @ (p - y) + (weights - identity)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return max(float(weights[0]), 1e-3), float(weights[1])


def fit_score_calibration(scores: Floats, right: Bools, novel: Bools, boxes: int) -> ScoreCalibration:
    """Return the calibration of K detections: a map for each split, and the threshold of the best F1.

    The threshold is at least LEAST_PROBABILITY if a correct detection reaches it. right, novel: (K,), the
    detection matches a box; its concept is novel. boxes: number of boxes to find. If no detection is
    right, the maps are the identity, the threshold is DEFAULT_THRESHOLD and F1 is 0.
    """
    if not right.any():
        return ScoreCalibration((1.0, 0.0), (1.0, 0.0), DEFAULT_THRESHOLD, 0.0)
    shared = fit_map(scores, right)
    maps = [
        fit_map(scores[part], right[part]) if right[part].sum() >= FEWEST else shared
        for part in (~novel, novel)
    ]
    unset = ScoreCalibration(maps[0], maps[1], 0.0, 0.0)
    known = unset.apply(scores, novel)
    order = np.argsort(-known, kind="stable")
    known, hits = known[order], np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + max(boxes, 1))
    f1[:-1][known[:-1] == known[1:]] = -1  # a threshold keeps all detections of equal score
    if hits[known >= LEAST_PROBABILITY].any():
        f1[known < LEAST_PROBABILITY] = -1
    best = int(f1.argmax())
    return ScoreCalibration(maps[0], maps[1], float(known[best]), float(f1[best]))


def calibration_error(scores: Floats, right: Bools) -> float:
    """Return the expected calibration error: mean over the detections of the difference between the score
    and the share that is right, in BINS bins of equal width; NaN without a detection.
    """
    if not len(scores):
        return float("nan")
    bins = np.minimum((np.asarray(scores, np.float64) * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=np.asarray(scores, np.float64) - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(scores))


def reliability(scores: Floats, right: Bools) -> list[dict[str, float]]:
    """Return the reliability curve: for each of BINS bins of the score that is not empty, its mean score, the
    share of detections that is right, and their number.
    """
    bins = np.minimum((np.asarray(scores, np.float64) * BINS).astype(int), BINS - 1)
    curve = []
    for one in np.unique(bins):
        inside = bins == one
        curve.append(
            {
                "score": float(np.mean(scores[inside])),
                "right": float(np.mean(right[inside])),
                "detections": int(inside.sum()),
            }
        )
    return curve
