"""Dealing rule, language queries and choice of present concepts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.presence import choose_present
from cckt.detector.config.method import GuidanceConfig
from cckt.detector.data.presence import disturb_present
from cckt.detector.students.build import build_student
from cckt.detector.students.contract import PresentText
from cckt.detector.students.deformable_detr.guidance import LanguageGuidance, deal, deal_runs
from cckt.detector.students.deformable_detr.model import DeformableDETR
from tests.detector.tiny import tiny_config


def slow_deal(count: int, queries: int) -> list[int]:
    """Eq. 9, by appending."""
    count = min(count, queries)
    if count == 0:
        return [-1] * queries
    runs: list[int] = []
    for concept in range(count):
        runs += [concept] * (queries // count + (1 if concept < queries % count else 0))
    return runs


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), max_size=5), st.integers(1, 30))
def test_deal_equals_the_rule(counts: list[int], queries: int) -> None:
    found = deal(torch.tensor(counts, dtype=torch.int64), queries)
    assert found.shape == (len(counts), queries)
    assert found.tolist() == [slow_deal(count, queries) for count in counts]


def test_deal_by_hand() -> None:
    found = deal(torch.tensor([0, 1, 3, 9]), 5)
    assert found.tolist() == [[-1] * 5, [0] * 5, [0, 0, 1, 1, 2], [0, 1, 2, 3, 4]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), max_size=5), st.integers(1, 30), st.integers(1, 5))
def test_the_last_queries_can_be_left_unguided(counts: list[int], queries: int, unguided: int) -> None:
    found, place = deal_runs(torch.tensor(counts, dtype=torch.int64), queries + unguided, unguided)
    assert found.tolist() == [slow_deal(count, queries) + [-1] * unguided for count in counts]
    for runs, places in zip(found.tolist(), place.tolist(), strict=True):
        assert places == [runs[:q].count(run) for q, run in enumerate(runs)]


def test_a_share_of_unguided_queries_is_rounded_and_never_all() -> None:
    for share, expected in [(0.0, 0), (0.26, 2), (0.5, 3), (0.99, 5)]:
        student = build_student(tiny_config(f"guidance.unguided={share}", "model.queries=6"), 6)
        assert isinstance(student, DeformableDETR)
        assert student.unguided == expected
    with pytest.raises(UserError, match=r"guidance\.unguided: found 1\.0, expected a share below 1"):
        GuidanceConfig(unguided=1.0)


def test_guidance_adds_the_projected_text_of_the_dealt_concept() -> None:
    guidance = LanguageGuidance(6, 8)
    content, text = torch.randn(3, 5, 8), torch.randn(3, 2, 6)
    present = PresentText(text, torch.tensor([2, 0, 1]))
    found = guidance(content, present)
    for b, rows in enumerate([[0, 0, 0, 1, 1], None, [0] * 5]):
        for q in range(5):
            expected = content[b, q]
            if rows is not None:
                expected = expected + guidance.project.weight @ text[b, rows[q]] + guidance.project.bias
            torch.testing.assert_close(found[b, q], expected)


def test_without_present_concepts_the_projection_stays_in_the_graph() -> None:
    guidance = LanguageGuidance(6, 8)
    content = torch.randn(2, 5, 8)
    found = guidance(content, PresentText(torch.zeros(2, 0, 6), torch.zeros(2, dtype=torch.int64)))
    assert torch.equal(found, content)
    found.sum().backward()
    assert guidance.project.weight.grad is not None
    assert not bool(guidance.project.weight.grad.any())


def test_gather_pads_and_counts() -> None:
    text = torch.eye(4)
    present = PresentText.gather(text, [torch.tensor([3, 1]), torch.tensor([], dtype=torch.int64)])
    assert present.counts.tolist() == [2, 0]
    assert torch.equal(present.embeddings[0], text[[3, 1]])
    assert not bool(present.embeddings[1].any())
    assert PresentText.gather(text, []).embeddings.shape == (0, 0, 4)


def slow_choose(row: list[float], rho: float, limit: int) -> list[int]:
    ranked = sorted(range(len(row)), key=lambda c: (-row[c], c))
    return [c for c in ranked if row[c] >= rho][:limit]


probabilities = st.integers(0, 6).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 0.71, 1.0]), min_size=width, max_size=width),
        min_size=1,
        max_size=4,
    )
)


@settings(deadline=None, max_examples=60)
@given(probabilities, st.sampled_from([0.0, 0.5, 0.7, 1.0]), st.integers(0, 5))
def test_choose_present_equals_the_rule_and_fills(rows: list[list[float]], rho: float, limit: int) -> None:
    table = np.array(rows, np.float32).reshape(len(rows), -1).astype(np.float64).round(4)
    ids = np.arange(len(rows)) + 100
    bare = choose_present(table, rho, limit)
    expected = [slow_choose(row, rho, limit) for row in rows]
    assert [one.tolist() for one in bare] == expected
    randomly = choose_present(table, rho, limit, "random", ids)
    best = choose_present(table, rho, limit, "top")
    for passed, drawn, top, row in zip(expected, randomly, best, rows, strict=True):
        full = min(limit, len(row))
        assert drawn[: len(passed)].tolist() == passed
        assert len(drawn) == len(set(drawn.tolist())) == full
        assert top.tolist() == slow_choose(row, -1.0, limit)


def test_random_fill_depends_only_on_the_image_id() -> None:
    table = np.zeros((2, 50))
    first = choose_present(table, 0.7, 6, "random", [7, 8])
    second = choose_present(table[:1], 0.7, 6, "random", [8])
    assert first[1].tolist() == second[0].tolist()
    assert first[0].tolist() != first[1].tolist()


def test_random_fill_needs_image_ids() -> None:
    with pytest.raises(AssertionError, match="image_ids"):
        choose_present(np.zeros((1, 3)), 0.7, 2, "random")


def test_nan_probabilities_are_never_present() -> None:
    assert [one.tolist() for one in choose_present(np.array([[np.nan, 0.9, np.nan]]), 0.0, 3)] == [[1]]


def test_disturb_without_noise_only_shuffles() -> None:
    rows = np.array([4, 1, 7])
    found = disturb_present(rows, 10, 0.0, 0.0, 0.0, np.random.default_rng(0))
    assert sorted(found.tolist()) == [1, 4, 7]


def test_disturb_with_extreme_rates() -> None:
    random = np.random.default_rng(0)
    rows = np.array([4, 1, 7])
    assert len(disturb_present(rows, 10, 0.0, 3.0, 1.0, random)) == 0
    assert len(disturb_present(rows, 10, 1.0, 0.0, 0.0, random)) == 0
    added = disturb_present(rows, 5, 0.0, 1000.0, 0.0, random)  # more than exist: all of them
    assert sorted(added.tolist()) == [0, 1, 2, 3, 4, 7]


def test_disturb_has_the_configured_rates() -> None:
    random = np.random.default_rng(0)
    rows = np.arange(4)
    runs = [disturb_present(rows, 40, 0.25, 1.5, 0.2, random) for _ in range(2000)]
    empty = np.mean([len(run) == 0 for run in runs])
    kept = np.mean([(run < 4).sum() for run in runs])
    added = np.mean([(run >= 4).sum() for run in runs])
    assert abs(empty - 0.2) < 0.04
    assert abs(kept - 0.8 * 3) < 0.15
    assert abs(added - 0.8 * 1.5) < 0.15


def test_the_initial_projection_has_the_chosen_size() -> None:
    torch.manual_seed(0)
    normal = LanguageGuidance(512, 64, "normal").project.weight.detach()
    xavier = LanguageGuidance(512, 64, "xavier").project.weight.detach()
    assert float(normal.std()) == pytest.approx(1, rel=0.02)
    assert float(xavier.abs().max()) <= (6 / (512 + 64)) ** 0.5
    assert float(xavier.std()) == pytest.approx((2 / (512 + 64)) ** 0.5, rel=0.02)


def test_projections_learn_slowly_if_asked() -> None:
    def slow_names(*assignments: str) -> set[str]:
        model = build_student(tiny_config(*assignments), 16)
        slow = {id(one) for one in model.parameter_groups()["sampling"]}
        return {name for name, one in model.named_parameters() if id(one) in slow}

    more = slow_names("guidance.slow=true") - slow_names()
    assert {"guidance.project.weight", "guidance.project.bias", "pyramid.steps.0.0.weight"} <= more
    assert all(name.startswith(("guidance.project.", "pyramid.")) for name in more)
