"""Calibration's fit and POPE's questions, against slow ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.mllm.calibrate import Calibration, fit
from cckt.cache_builder.quality.pope import KINDS, figures, pope_report


def test_fit_finds_what_made_the_answers() -> None:
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


def test_calibration_is_the_formula() -> None:
    calibration = Calibration(temperature=2.0, bias=-0.5, photos=1, pairs=9)
    found = calibration(np.array([[-3.0, 0.0, 4.0]]))
    np.testing.assert_allclose(found, [[1 / (1 + math.exp(-(z / 2 - 0.5))) for z in (-3, 0, 4)]], rtol=1e-6)
    assert found.dtype == np.float32
    assert calibration.recipe() == {"temperature": 2.0, "bias": -0.5, "photos": 1, "pairs": 9}
    assert "temperature 2, bias -0.5" in calibration.line()


def test_pope_of_nothing() -> None:
    report = pope_report(np.zeros((0, 3)), np.zeros((0, 3), bool), {"base": np.arange(3)})
    for kind in KINDS:
        assert report[kind]["base"].questions == 0
        assert math.isnan(report[kind]["all"].f1)


def test_pope_by_hand() -> None:
    presence = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 0, 0]], bool)
    says_yes = np.array([[0.9, 0.2, 0.9, 0.1, 0.1]]).repeat(4, axis=0)
    splits = {"base": np.array([0, 1, 2]), "novel": np.array([3, 4])}
    report = pope_report(says_yes, presence, splits)
    # popular: concept 0 is shown thrice, 1 and 2 twice. Photo 3 shows 2 and is asked about 0 besides;
    # photos 0 and 1 show 0 and 1 and have one absent concept, 2; photo 2 shows 0 and 2, is asked about 1.
    base = report["popular"]["base"]
    assert base.questions == 8
    # photo 0: 0 yes (right), 2 yes (wrong); photo 1 the same; photo 2: 0 yes, 1 no; photo 3: 2 yes, 0 yes
    assert (base.accuracy, base.yes, base.recall) == (5 / 8, 7 / 8, 1.0)
    assert base.precision == 4 / 7
    assert report["adversarial"]["novel"].questions == 0
    everything = report["adversarial"]["all"]
    # photo 3 shows 2, which came with 0 once and never with others: the adversary asks about 0.
    assert everything.questions == 14


def test_pope_respects_what_is_valid_and_known() -> None:
    presence = np.array([[1, 0, 0], [1, 0, 0]], bool)
    known = np.array([[1, 0, 1], [1, 0, 0]], bool)
    priors = np.array([[0.9, 0.9, 0.1], [0.9, 0.9, 0.9]])
    rows = {"base": np.arange(3)}
    report = pope_report(priors, presence, rows, known=known)
    assert [report[kind]["base"].questions for kind in KINDS] == [2, 2, 2]
    assert report["random"]["base"].accuracy == 1.0
    nobody = pope_report(priors, presence, rows, valid=np.array([False, False]))
    assert nobody["random"]["base"].questions == 0


def test_random_negatives_follow_from_the_image_id() -> None:
    rng = np.random.default_rng(0)
    presence, priors, rows = rng.random((30, 20)) < 0.2, rng.random((30, 20)), {"x": np.arange(20)}
    ids = np.arange(30) + 7
    whole = pope_report(priors, presence, rows, image_ids=ids)["random"]["x"]
    turned = pope_report(priors[::-1], presence[::-1], rows, image_ids=ids[::-1])["random"]["x"]
    assert whole == turned
    assert whole != pope_report(priors, presence, rows)["random"]["x"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_figures(pairs: list[tuple[bool, bool]]) -> None:
    truth, said = (np.array(column) for column in zip(*pairs, strict=True))
    found = figures(truth, said)
    assert found.accuracy == sum(a == b for a, b in pairs) / len(pairs)
    hits = sum(a and b for a, b in pairs)
    if said.any():
        assert found.precision == hits / said.sum()
    if hits:
        assert found.f1 == pytest.approx(
            2 * found.precision * found.recall / (found.precision + found.recall)
        )
    assert found.to_json()["questions"] == len(pairs)
