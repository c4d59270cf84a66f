"""The calibration of yes and no answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.mllm.calibrate import Calibration, fit


def test_fit_recovers_temperature_and_bias() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, 40_000)
    truth = rng.random(40_000) < 1 / (1 + np.exp(-(z / 2.5 - 1.2)))
    temperature, bias = fit(z, truth)
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert bias == pytest.approx(-1.2, abs=0.05)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_fit_is_a_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, truth = rng.normal(0, 2, 60), rng.random(60) < 0.4
    truth[:2] = [True, False]
    temperature, bias = fit(z, truth)

    def loss(slope: float, shift: float) -> float:
        x = z * slope + shift
        return float(np.mean(np.logaddexp(0, x) - truth * x))

    best = loss(1 / temperature, bias)
    for slope, shift in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
        assert loss(1 / temperature + slope, bias + shift) > best - 1e-6


def test_separable_answers_stay_finite() -> None:
    temperature, bias = fit(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True]))
    assert 0 < temperature < 1
    assert math.isfinite(bias)
    assert fit(np.array([-1.0, 1.0]), np.array([True, False]))[0] < 0


def test_calibration_applies_the_formula() -> None:
    calibration = Calibration(temperature=2.0, bias=-0.5, photos=1, pairs=9)
    found = calibration(np.array([[-3.0, 0.0, 4.0]]))
    np.testing.assert_allclose(found, [[1 / (1 + math.exp(-(z / 2 - 0.5))) for z in (-3, 0, 4)]], rtol=1e-6)
    assert found.dtype == np.float32
    assert calibration.recipe() == {"temperature": 2.0, "bias": -0.5, "photos": 1, "pairs": 9}
    assert "temperature 2, bias -0.5" in calibration.summary()
