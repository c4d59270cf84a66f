"""Calibrated scores: the probability that a detection is correct, and the threshold in that measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
MARGIN = 1e-6
"""Scores are clamped to [MARGIN, 1 - MARGIN] before their log-odds are taken."""


def log_odds(scores: Floats) -> npt.NDArray[np.float64]:
    """Return the log-odds of scores in [0, 1]."""
    clamped = np.clip(np.asarray(scores, np.float64), MARGIN, 1 - MARGIN)
    values: npt.NDArray[np.float64] = np.log(clamped / (1 - clamped))
    return values


@dataclass(frozen=True)
class ScoreCalibration:
    """A rising map from scores to probabilities for each split, and the threshold with the best F1.

    base, novel: (slope, offset) in log-odds; a slope is positive. threshold: the lowest probability that a
    prediction keeps. f1: of the evaluation at the threshold; 0 if no detection is correct.
    """

    base: tuple[float, float]
    novel: tuple[float, float]
    threshold: float
    f1: float

    def apply(self, scores: Floats, novel: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Return (K,) probabilities that detections are correct. novel: (K,), of a concept that is novel."""
        (base_slope, base_offset), (novel_slope, novel_offset) = self.base, self.novel
        slope, offset = np.where(novel, novel_slope, base_slope), np.where(novel, novel_offset, base_offset)
        known: npt.NDArray[np.float32] = (
            0.5 * (1 + np.tanh(0.5 * (slope * log_odds(scores) + offset)))
        ).astype(np.float32)
        return known

    @staticmethod
    def none(threshold: float) -> ScoreCalibration:
        """Return the map that leaves scores as they are."""
        return ScoreCalibration((1.0, 0.0), (1.0, 0.0), threshold, 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        return {"base": [*self.base], "novel": [*self.novel], "threshold": self.threshold, "f1": self.f1}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ScoreCalibration:
        """Return the calibration of `as_dict`; further keys are ignored."""
        (a, b), (c, d) = values["base"], values["novel"]
        return ScoreCalibration(
            (float(a), float(b)), (float(c), float(d)), float(values["threshold"]), float(values["f1"])
        )
