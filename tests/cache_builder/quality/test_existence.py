"""Metrics of existence priors, each compared with a slow reference."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.presence import known_pairs, oracle_presence
from cckt.cache_builder.quality.existence import (
    average_precision,
    chosen_pairs,
    existence_report,
)

SPLITS = {"base": np.array([0, 2, 4]), "novel": np.array([1, 5])}  # concept 3 is "other"


def slow_ap(scores: list[float], truth: list[bool]) -> float:
    """Precision-recall steps at every distinct threshold, from the highest."""
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        said = [t for s, t in zip(scores, truth, strict=True) if s >= threshold]
        recall = sum(said) / sum(truth)
        area += (recall - before) * sum(said) / len(said)
        before = recall
    return area


def test_metrics_of_nothing_are_nan() -> None:
    report = existence_report(np.zeros((0, 6)), np.zeros((0, 6), bool), SPLITS)
    assert list(report) == ["base", "novel", "all"]
    assert all(math.isnan(figures.ap) and math.isnan(figures.f1) for figures in report.values())
    assert existence_report(np.zeros((2, 6)), np.zeros((2, 6), bool), {})["all"].pairs == 0
    assert math.isnan(average_precision(np.array([0.5]), np.array([False])))


def test_a_perfect_prior_scores_one() -> None:
    truth = np.random.default_rng(0).random((9, 6)) < 0.4
    report = existence_report(truth.astype(np.float32), truth, SPLITS)
    for figures in report.values():
        assert (figures.precision, figures.recall, figures.f1, figures.ap) == (1, 1, 1, 1)
    assert report["base"].pairs == truth[:, SPLITS["base"]].sum()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.booleans()), min_size=1, max_size=12))
def test_average_precision_does_not_depend_on_the_order_of_ties(pairs: list[tuple[float, bool]]) -> None:
    scores, truth = [s for s, _ in pairs], [t for _, t in pairs]
    ours = average_precision(np.array(scores), np.array(truth))
    if any(truth):
        assert ours == pytest.approx(slow_ap(scores, truth))
    else:
        assert math.isnan(ours)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([0.2, 0.5, 0.7]), st.integers(0, 6))
def test_metrics_equal_counting_by_hand(seed: int, rho: float, limit: int) -> None:
    rng = np.random.default_rng(seed)
    priors = rng.choice([0.1, 0.2, 0.5, 0.7, 0.95], (5, 6))
    truth, valid, known = rng.random((5, 6)) < 0.4, rng.random(5) < 0.8, rng.random((5, 6)) < 0.8
    report = existence_report(priors, truth, SPLITS, rho=rho, limit=limit, valid=valid, known=known)
    asked = [0, 1, 2, 4, 5]
    for name, rows in {**SPLITS, "all": np.array(asked)}.items():
        hits = claims = right = 0
        aps = []
        for i in range(5):
            ranked = sorted(asked, key=lambda c: (-priors[i, c], c))[:limit]
            for c in rows:
                if valid[i] and known[i, c]:
                    said = c in ranked and priors[i, c] >= rho
                    hits, claims, right = hits + (said and truth[i, c]), claims + said, right + truth[i, c]
        for c in rows:
            at = [i for i in range(5) if valid[i] and known[i, c]]
            if any(truth[i, c] for i in at):
                aps.append(slow_ap([priors[i, c] for i in at], [bool(truth[i, c]) for i in at]))
        figures = report[name]
        assert figures.precision == pytest.approx(hits / claims if claims else math.nan, nan_ok=True)
        assert figures.recall == pytest.approx(hits / right if right else math.nan, nan_ok=True)
        f1 = 2 * hits / (claims + right) if claims + right else math.nan
        assert figures.f1 == pytest.approx(f1, nan_ok=True)
        assert figures.ap == pytest.approx(np.mean(aps) if aps else math.nan, nan_ok=True)
        assert (figures.concepts, figures.pairs) == (len(aps), right)


def test_concepts_outside_the_splits_do_not_count_for_the_limit() -> None:
    priors = np.array([[0.8, 0.1, 0.1, 0.99, 0.1, 0.1]])
    assert np.argwhere(chosen_pairs(priors, np.array([0, 1, 2, 4, 5]), 0.7, 1)).tolist() == [[0, 0]]


class Marks(SimpleNamespace):
    """The parts of an index that the truth of pairs is read from: two images, three concepts."""

    def __len__(self) -> int:
        return 2


def marks(boxes: list[tuple[int, int, bool]], absent: list[list[int]]) -> Marks:
    """boxes: (image, concept, crowd). absent: per image, concepts that are verified to be absent."""
    images, concepts, crowds = zip(*boxes, strict=True)
    return Marks(
        concepts=range(3),
        box_images=np.array(images),
        box_concepts=np.array(concepts),
        iscrowd=np.array(crowds),
        neg_rows=np.array([row for rows in absent for row in rows], int),
        neg_offsets=np.cumsum([0, *map(len, absent)]),
    )


def test_lvis_states_the_truth_of_some_pairs() -> None:
    one = marks([(0, 0, False)], [[2], [0]])
    assert known_pairs(one).tolist() == [[True, False, True], [True, False, False]]
    assert known_pairs(marks([(0, 0, False)], [[], []])) is None


def test_a_concept_that_only_a_crowd_shows_is_neither_present_nor_absent() -> None:
    one = marks([(0, 0, False), (0, 0, True), (1, 2, True)], [[], []])
    assert oracle_presence(one).tolist() == [[True, False, False], [False, False, False]]
    assert known_pairs(one).tolist() == [[True, True, True], [True, True, False]]
