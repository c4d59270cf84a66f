"""The scale of scores: a calibration belongs to the way in which the run's own evaluation scored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cckt.detector.config.config import InferenceConfig
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.own_evaluation import DEFAULT_THRESHOLD, Threshold
from cckt.detector.inference.stages.score_scale import ScoreScale

CALIBRATION = ScoreCalibration((2.0, -1.0), (2.0, -1.0), 0.4, 0.5)
KNOWN = ScoreScale(Threshold(0.2, 0.6), CALIBRATION, CALIBRATION, "RUN", InferenceConfig())


@pytest.mark.parametrize("same", [{}, {"top": 7}, {"nms": 0.3}, {"batch": 1}, {"restrict_to_present": True}])
def test_scores_of_the_own_evaluation_keep_their_scale(same: dict[str, object]) -> None:
    assert KNOWN.for_scores(replace(InferenceConfig(), **same)) is KNOWN  # type: ignore[arg-type]
    unknown = replace(KNOWN, scoring=None)
    assert unknown.for_scores(InferenceConfig(), "head") is unknown


@pytest.mark.parametrize("other", [{"classification": "head"}, {"softmax": True}, {"prior_weight": 0.5}])
def test_scores_of_another_kind_are_not_calibrated(other: dict[str, object]) -> None:
    scale = KNOWN.for_scores(replace(InferenceConfig(), **other))  # type: ignore[arg-type]
    assert scale.calibration_of(rivals=True) is scale.calibration_of(rivals=True, confirmed=True) is None
    assert scale.lowest(rivals=True) == DEFAULT_THRESHOLD
    (note,) = scale.notes(rivals=True)
    assert "scored in another way, so scores are not calibrated, and those from 0.5 up are kept" in note
    assert scale.confirmed_notes(8) == []


def test_a_classification_stands_in_place_of_that_of_the_options() -> None:
    head = replace(InferenceConfig(), classification="head")
    assert KNOWN.for_scores(head, "similarity") is KNOWN
    assert KNOWN.for_scores(InferenceConfig(), "head").other
