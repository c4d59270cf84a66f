"""POPE's questions, compared with slow ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.quality.pope import KINDS, answer_metrics, pope_report


def test_metrics_without_questions_are_nan() -> None:
    report = pope_report(np.zeros((0, 3)), np.zeros((0, 3), bool), {"base": np.arange(3)})
    for kind in KINDS:
        assert report[kind]["base"].questions == 0
        assert math.isnan(report[kind]["all"].f1)


def test_metrics_equal_counting_by_hand() -> None:
    presence = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 0, 0]], bool)
    says_yes = np.array([[0.9, 0.2, 0.9, 0.1, 0.1]]).repeat(4, axis=0)
    splits = {"base": np.array([0, 1, 2]), "novel": np.array([3, 4])}
    report = pope_report(says_yes, presence, splits)
    # popular: concept 0 is in three images, 1 and 2 are in two. Photo 3 shows 2 and has the negative 0;
    # photos 0 and 1 show 0 and 1, their negative is 2; photo 2 shows 0 and 2, its negative is 1.
    base = report["popular"]["base"]
    assert base.questions == 8
    # photo 0: 0 yes (right), 2 yes (wrong); photo 1 the same; photo 2: 0 yes, 1 no; photo 3: 2 yes, 0 yes
    assert (base.accuracy, base.yes, base.recall) == (5 / 8, 7 / 8, 1.0)
    assert base.precision == 4 / 7
    assert report["adversarial"]["novel"].questions == 0
    everything = report["adversarial"]["all"]
    # photo 3 shows 2, which occurs once with 0 and never with others: its negative is 0.
    assert everything.questions == 14


def test_only_valid_images_and_known_pairs_count() -> None:
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
def test_answer_metrics_equal_counting(pairs: list[tuple[bool, bool]]) -> None:
    truth, answers = (np.array(column) for column in zip(*pairs, strict=True))
    found = answer_metrics(truth, answers)
    assert found.accuracy == sum(a == b for a, b in pairs) / len(pairs)
    hits = sum(a and b for a, b in pairs)
    if answers.any():
        assert found.precision == hits / answers.sum()
    if hits:
        assert found.f1 == pytest.approx(
            2 * found.precision * found.recall / (found.precision + found.recall)
        )
    assert found.to_json()["questions"] == len(pairs)
