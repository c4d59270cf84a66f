"""What the scores of a run mean: their lowest value, their calibration, and notes on what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cckt.cache_builder.base.errors import quoted
from cckt.detector.config.config import Config
from cckt.detector.config.inference import InferenceConfig
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.own_evaluation import Threshold

SCORES = (
    "classification",
    "softmax",
    "prior_weight",
    "fusion_alpha",
    "fusion_beta",
    "fusion_scale_1",
    "fusion_scale_2",
    "fusion_second",
)
"""Options of inference that decide the value of a score."""
CONFIRMED_THRESHOLD = 0.3
"""Lowest confirmed score without a calibration; about the best of the run of `cckt quickstart`."""


def own_scoring(config: Config) -> InferenceConfig:
    """Return how the evaluation of a run scores: without priors, no score is weighed by them."""
    return config.inference if config.prior.cached else replace(config.inference, prior_weight=0.0)


@dataclass(frozen=True)
class ScoreScale:
    """The scale of the scores of a run.

    own: lowest score without a calibration. calibration: of scores with rivals; confirmed: of confirmed
    scores with rivals; None if not known. run: the folder, for commands in notes. scoring: how the run's own
    evaluation scored, from which the others come; None if not known. other: whether predictions are scored in
    another way.
    """

    own: Threshold = field(default_factory=Threshold)
    calibration: ScoreCalibration | None = None
    confirmed: ScoreCalibration | None = None
    run: str = "RUN"
    scoring: InferenceConfig | None = None
    other: bool = False

    def for_scores(self, inference: InferenceConfig, classification: str | None = None) -> ScoreScale:
        """Return the scale of scores that are computed so; scores of another kind have no calibration.

        classification: in place of that of `inference`, if it is not None.
        """
        wanted = {name: getattr(inference, name) for name in SCORES}
        wanted |= {} if classification is None else {"classification": classification}
        if self.calibration is None and self.confirmed is None and self.own.best_f1 is None:
            return self  # nothing is known that could be of another kind
        if self.scoring is None or all(getattr(self.scoring, name) == wanted[name] for name in SCORES):
            return self
        return replace(self, own=Threshold(), calibration=None, confirmed=None, other=True)

    def calibration_of(self, rivals: bool, confirmed: bool = False) -> ScoreCalibration | None:
        """Return the map of scores to probabilities; None without rivals, or if it is not known."""
        if not rivals:
            return None
        return self.confirmed if confirmed else self.calibration

    def lowest(self, rivals: bool, confirmed: bool = False) -> float:
        """Return the lowest score that is kept: a probability with a calibration, else a score."""
        calibration = self.calibration_of(rivals, confirmed)
        if calibration is not None and calibration.f1:
            return calibration.threshold
        return CONFIRMED_THRESHOLD if confirmed else self.own.score

    def notes(self, rivals: bool) -> list[str]:
        """Return sentences on what the run lacks for scores that are comparable between vocabularies."""
        warning = self.warning(rivals)
        notes = [warning] if warning else []
        if not rivals:
            notes.append(
                "the run has no text embeddings of its base concepts and there is no teacher, so scores "
                "depend on the words that are named together, and few words give many wrong detections; "
                "give --teacher, or train the run again."
            )
        elif self.other:
            notes.append(
                "the run's own evaluation scored in another way, so scores are not calibrated, and those "
                f"from {self.lowest(rivals):g} up are kept; leave out --classification, --priors and --set "
                "inference, or choose a score with --min-score."
            )
        elif self.calibration is None and self.own.best_f1 is not None:
            notes.append(
                "the scores of the run are not calibrated, because an earlier version evaluated it; run "
                f"cckt eval {quoted(self.run)} --data DATA, with DATA its held-out data."
            )
        return notes

    def confirmed_notes(self, count: int) -> list[str]:
        """Return a sentence if scores of `count` confirmed boxes per image were never evaluated."""
        if self.confirmed is not None or self.other:
            return []
        return [
            "confirmed scores are not calibrated, and those from "
            f"{CONFIRMED_THRESHOLD:g} up are kept; run cckt eval {quoted(self.run)} --data DATA --confirm "
            f"{count} once, with DATA its held-out data."
        ]

    def warning(self, rivals: bool) -> str:
        """Return a sentence when no detection of the run's own evaluation is correct; "" otherwise."""
        if self.own.best_f1 != 0:
            return ""
        return (
            "no detection of the run's own evaluation is correct (best F1 is 0), so predictions are not "
            f"reliable and scores from the default {self.lowest(rivals):g} up are kept; train the run "
            "longer, or choose a score with --min-score."
        )
