"""Settings from a run's own evaluation: score threshold, calibration, and temperature of its priors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.runs.json_fields import as_written
from cckt.detector.runs.run_folder import Facts, evaluation_figures, own_evaluations

DEFAULT_THRESHOLD = 0.5
"""Lowest score of a prediction when the run's evaluation gives no threshold."""
RESTORE = "restore metrics.json and facts.json, or evaluate the run again with cckt eval"
"""What to do where figures of a run were edited by hand."""


@dataclass(frozen=True)
class Threshold:
    """The lowest score that a prediction keeps by default.

    best_f1: F1 of the run's own evaluation at that score; None without an evaluation. 0 means that no
    detection was correct at any score; the threshold is then DEFAULT_THRESHOLD.
    """

    score: float = DEFAULT_THRESHOLD
    best_f1: float | None = None

    @property
    def origin(self) -> str:
        """Where the score comes from, in words."""
        if self.best_f1 is None:
            return "the default, because the run has no evaluation of its own"
        if not self.best_f1:
            return "the default, because no detection of the run's own evaluation is correct"
        return "the best F1 of the run's own evaluation, with its priors and NMS"

    @staticmethod
    def of(run: Path) -> Threshold:
        """Return the score with the best F1 in the run's own evaluation."""
        with as_written(run, RESTORE):
            best = _figures(run).get("best_f1") or {}
            if "score" not in best:
                return Threshold()
            f1 = float(best.get("f1", 1.0))  # evaluations of earlier versions may lack it
            return Threshold(float(best["score"]) if f1 else DEFAULT_THRESHOLD, f1)


def calibration_of_run(run: Path, confirmed: bool = False) -> ScoreCalibration | None:
    """Return the calibration of scores from the run's own evaluation, or of confirmed scores.

    A run whose evaluation at the end of training has none, because it was trained by an earlier version, gets
    that of its newest `cckt eval` with the run's own options; None without either. Confirmed scores have that
    of the newest `cckt eval --confirm`.
    """
    with as_written(run, RESTORE):
        for evaluation in own_evaluations(run, confirmed):
            known = (evaluation.get("figures") or {}).get("calibration")
            if known:
                return ScoreCalibration.from_dict(known)
    return None


def prior_tau(run: Path) -> float | None:
    """Return the temperature of the CLIP priors that a run is used with (docs/method/cckt_det.md, eq. 5).

    It is that of the column that the run's own evaluation read; else that of the column that guided training;
    else None: not known.
    """
    with as_written(run, RESTORE):
        for known in (_figures(run).get("prior_tau"), Facts.load(run).priors_recipe.get("tau")):
            if known is not None:
                return float(known)
    return None


def _figures(run: Path) -> dict[str, Any]:
    """Return the settings and thresholds of the run's own evaluation, {} without one."""
    return dict(evaluation_figures(run).get("figures") or {})
