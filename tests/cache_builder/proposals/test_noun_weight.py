"""The weight of a noun against eq. 12, and the fit against a search."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.proposals import NounWeight, fit_noun_weight, noun_weight


def test_the_weight_by_hand() -> None:
    """docs/method/hd_ovd.md, section 3: w = 0.65 at s = 0.31, 1 at s = 0.341, and never above 1.3."""
    s = np.array([0.31, 0.341, 5.0, -5.0])
    found = noun_weight(s, 0.31, 0.026, 1.3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0.65, 1.0, 1.3, 0.0], atol=3e-3)
    for value, weight in zip(s[:2], found[:2], strict=True):
        assert weight == pytest.approx(1.3 / (1 + math.exp(-(value - 0.31) / 0.026)), rel=1e-6)
    assert noun_weight(np.zeros((0, 3)), 0.3, 0.1).shape == (0, 3)


def test_the_fit_finds_the_constants_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    s = rng.uniform(0.1, 0.5, 200_000)
    right = rng.random(len(s)) < 1 / (1 + np.exp(-(s - 0.3) / 0.03))
    size = min(right.sum(), (~right).sum())
    fitted = fit_noun_weight(s[right][:size], s[~right][:size])
    assert fitted.s0 == pytest.approx(0.3, abs=2e-3)
    assert fitted.s_delta == pytest.approx(0.03, rel=0.03)
    assert fitted.w_max == 1.3
    assert NounWeight.from_json(fitted.to_json()) == fitted
    np.testing.assert_array_equal(fitted(s[:9]), noun_weight(s[:9], fitted.s0, fitted.s_delta))


def test_no_other_constants_have_a_higher_likelihood() -> None:
    rng = np.random.default_rng(1)
    right, wrong = rng.normal(0.3, 0.05, 400), rng.normal(0.22, 0.04, 400)
    fitted = fit_noun_weight(right, wrong)

    def loss(s0: float, s_delta: float) -> float:
        return float(
            np.logaddexp(0, -(right - s0) / s_delta).sum() + np.logaddexp(0, (wrong - s0) / s_delta).sum()
        )

    best = loss(fitted.s0, fitted.s_delta)
    for s0 in np.linspace(fitted.s0 - 0.02, fitted.s0 + 0.02, 21):
        for s_delta in fitted.s_delta * np.linspace(0.7, 1.4, 21):
            assert loss(float(s0), float(s_delta)) > best - 0.01


def test_separable_names_give_finite_constants_and_wrong_teachers_none() -> None:
    fitted = fit_noun_weight(np.array([0.4, 0.5]), np.array([0.1, 0.2]))
    assert 0.2 < fitted.s0 < 0.4
    assert 0 < fitted.s_delta < 0.1
    with pytest.raises(UserError, match="expected them nearer to their own"):
        fit_noun_weight(np.array([0.1, 0.2]), np.array([0.4, 0.5]))
    with pytest.raises(UserError, match="--w-max is nan"):
        fit_noun_weight(np.array([0.4]), np.array([0.1]), float("nan"))
