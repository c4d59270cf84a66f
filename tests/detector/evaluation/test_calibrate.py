"""The reliability curve of calibrated scores."""

import numpy as np
import pytest

from cckt.detector.evaluation.calibrate import reliability


def test_the_reliability_curve_has_the_mean_score_and_the_share_that_is_right():
    assert reliability(np.zeros(0), np.zeros(0, bool)) == []
    scores, right = np.array([0.05, 0.71, 0.79, 1.0]), np.array([False, True, False, True])
    assert reliability(scores, right) == [
        {"score": 0.05, "right": 0.0, "detections": 1},
        {"score": pytest.approx(0.75), "right": 0.5, "detections": 2},
        {"score": 1.0, "right": 1.0, "detections": 1},
    ]
