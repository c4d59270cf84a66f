"""From boxes to a row: against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.boxes import iou_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.proposals.select import SLOT, Selection, suppress, used_slots

NONE = np.zeros((0, 4))
SIZE = (100, 60)


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / whole if whole else 0.0


def slow_row(boxes, scores, annotated, selection: Selection) -> list[list[float]]:
    """The slots in use, box by box."""
    known = []
    for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
        if not all(map(np.isfinite, [*box, score])):
            continue
        left, top, right, bottom = (
            float(np.float32(min(max(value, 0), limit)))
            for value, limit in zip(box, [*SIZE, *SIZE], strict=True)
        )
        if min(right - left, bottom - top) >= max(selection.min_side, 1e-9):
            known.append(([left, top, right, bottom], float(np.float32(score))))
    known.sort(key=lambda pair: -pair[1])
    kept = []
    for box, score in known[: selection.candidates]:
        if all(slow_iou(box, other[:4]) <= selection.nms for other in kept):
            kept.append([*box, score])
    return [
        [*one, float(any(slow_iou(one[:4], box) >= selection.repeats for box in annotated.tolist()))]
        for one in kept[: selection.top]
    ]


@st.composite
def cases(draw: st.DrawFn):
    count = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    corners = rng.uniform(-20, 110, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 70, (count, 2))], 1)
    if count > 3:
        boxes[1] = boxes[0] + 1
        boxes[2, draw(st.integers(0, 3))] = np.nan
    scores = rng.integers(0, 4, count) / 4  # ties
    annotated = boxes[: count // 2][np.isfinite(boxes[: count // 2]).all(1)].clip(0, 60)
    selection = Selection(draw(st.integers(1, 5)), draw(st.sampled_from([0.3, 0.6, 1.0])), 10.0, candidates=9)
    return boxes, scores, annotated, selection


def test_no_boxes_give_an_empty_row() -> None:
    row = Selection(3).row(NONE, np.zeros(0), NONE, SIZE)
    assert row.shape == (3 * SLOT,)
    assert row.dtype == np.float32
    assert not row.any()
    assert used_slots(row[None]).tolist() == [[False] * 3]
    assert len(suppress(NONE, 0.5, 4)) == 0
    assert iou_of(NONE, NONE).shape == (0, 0)


@settings(deadline=None, max_examples=80)
@given(cases())
def test_a_row_equals_plain_loops(case) -> None:
    boxes, scores, annotated, selection = case
    row = selection.row(boxes, scores, annotated, SIZE)
    expected = slow_row(boxes, scores, annotated, selection)
    found = row.reshape(-1, SLOT)[used_slots(row[None])[0]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32).reshape(-1, SLOT))
    assert not row.reshape(-1, SLOT)[len(found) :].any(), "unused slots are zeros, and last"


def test_a_stored_row_is_selected_unchanged() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (40, 2))], 1)
    selection = Selection(10, 0.5)
    row = selection.row(boxes, rng.random(40), NONE, SIZE)
    slots = row.reshape(-1, SLOT)[used_slots(row[None])[0]].astype(np.float64)
    np.testing.assert_array_equal(selection.row(slots[:, :4], slots[:, 4], NONE, SIZE), row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": 0}, "--top is 0; give at least 1"),
        ({"nms": 0.0}, "--nms is 0; give an IoU above 0"),
        ({"nms": 1.5}, "--nms is 1.5; give an IoU"),
        ({"nms": float("nan")}, "--nms is nan"),
        ({"min_side": -1.0}, "--min-side is -1; give a number of pixels"),
        ({"min_side": float("inf")}, "--min-side is inf"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        Selection(**changes)
