"""Large photos in windows: their places, merged detections, small objects that the whole photo hides."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.stages.windows import (
    INSIDE,
    SMALLEST,
    Windows,
    merge_windows,
    predict_in_windows,
)

WORDS = Vocabulary.free("dot, ring")
VIEW = 64
"""Side in pixels at which the detector of these tests sees any image."""


def found(boxes, scores=None, concepts=None, size=(100, 100)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores
    concepts = np.zeros(len(boxes)) if concepts is None else concepts
    return Prediction(boxes, np.float32(scores), np.int64(concepts), WORDS, size)


@given(st.integers(1, 900), st.integers(1, 900), st.integers(SMALLEST, 400), st.floats(0, 0.8))
@settings(max_examples=200, deadline=None)
def test_windows_cover_the_photo_and_have_the_side_where_it_fits(width, height, side, overlap):
    whole, *others = Windows(side, overlap).of(width, height)
    assert whole == (0, 0, width, height)
    assert bool(others) == (max(width, height) > side)
    if not others:
        return
    for axis, length in ((0, width), (1, height)):
        spans = sorted({(one[axis], one[axis + 2]) for one in others})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(high - low == min(side, length) for low, high in spans)
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end - start >= overlap * side - 1, "neighbours overlap by the share"
    assert len(others) == len(set(others))


@pytest.mark.parametrize("side", [0, -5, SMALLEST - 1])
def test_a_small_side_is_refused(side):
    with pytest.raises(UserError, match=f"--tile {side}: expected at least {SMALLEST} pixels"):
        Windows(side)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(UserError, match="expected a share from 0 to below 1"):
        Windows(100, overlap)


def test_a_photo_without_windows_keeps_its_prediction():
    one = found([[1, 2, 3, 4]])
    assert merge_windows([one], [(0, 0, 100, 100)], (100, 100)) is one


def test_nothing_found_is_nothing_merged():
    windows = Windows(60).of(100, 100)
    merged = merge_windows([found([]) for _ in windows], windows, (100, 100))
    assert (len(merged), merged.size) == (0, (100, 100))


def test_boxes_are_moved_into_the_photo_and_repeated_ones_dropped():
    windows = [(0, 0, 100, 60), (0, 0, 60, 60), (40, 0, 100, 60)]
    parts = [
        found([[45, 10, 55, 20]], [0.6]),
        found([[45, 10, 55, 20]], [0.9]),
        found([[5, 10, 15, 20]], [0.8]),
    ]
    merged = merge_windows(parts, windows, (100, 60))
    np.testing.assert_array_equal(merged.boxes_xyxy, [[45, 10, 55, 20]])
    np.testing.assert_allclose(merged.scores, [0.9])


def test_a_part_that_an_edge_cuts_off_is_dropped_even_with_a_higher_score():
    windows = [(0, 0, 100, 60), (0, 0, 60, 60), (40, 0, 100, 60)]
    whole = found([[50, 10, 90, 50]], [0.6])
    cut_off = found([[50, 10, 60, 50]], [0.99])
    merged = merge_windows([whole, cut_off, found([])], windows, (100, 60))
    np.testing.assert_array_equal(merged.boxes_xyxy, [[50, 10, 90, 50]])


def test_a_cut_part_stays_where_nothing_else_shows_its_object():
    windows = [(0, 0, 100, 60), (0, 0, 60, 60), (40, 0, 100, 60)]
    cut_off = found([[50, 10, 60, 50]], [0.7])
    other = found([[50, 10, 90, 50]], [0.6], [1])  # another concept
    merged = merge_windows([other, cut_off, found([])], windows, (100, 60))
    assert sorted(merged.names) == ["dot", "ring"]


def test_small_objects_inside_a_large_box_of_the_same_concept_stay():
    windows = [(0, 0, 100, 60), (0, 0, 60, 60), (40, 0, 100, 60)]
    cluster = found([[5, 5, 95, 55]], [0.95])
    merged = merge_windows([cluster, found([[10, 10, 20, 20]], [0.7]), found([])], windows, (100, 60))
    assert len(merged) == 2


def test_several_labels_of_one_object_stay_if_they_are_wanted():
    windows = [(0, 0, 100, 60), (0, 0, 60, 60), (40, 0, 100, 60)]
    parts = [found([[10, 10, 30, 30]], [0.6], [1]), found([[10, 10, 30, 30]], [0.9]), found([])]
    assert merge_windows(parts, windows, (100, 60)).names == ["dot"]
    assert merge_windows(parts, windows, (100, 60), multi_label=True).names == ["dot", "ring"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_merging_equals_a_slow_reference(data):
    size = (100, 80)
    windows = Windows(50, 0.2).of(*size)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    parts = []
    for left, top, right, bottom in windows:
        count = int(rng.integers(0, 4))
        low = rng.integers(0, 30, (count, 2))
        high = np.minimum(low + rng.integers(5, 30, (count, 2)), [right - left, bottom - top])
        parts.append(
            found(
                np.concatenate([low, high], 1),
                rng.permutation(count) / 10 + rng.random() / 100,
                rng.integers(0, 2, count),
            )
        )
    merged = merge_windows(parts, windows, size)
    boxes = [(*map(float, box),) for box in merged.boxes_xyxy]
    assert boxes == slow_merge(parts, windows, size)


def slow_merge(parts, windows, size):
    """Merge by the words of `merge_windows`, one box at a time."""
    rows = []
    for number, (part, (left, top, right, bottom)) in enumerate(zip(parts, windows, strict=True)):
        for box, score, concept in zip(part.boxes_xyxy.tolist(), part.scores, part.concepts, strict=True):
            x0, y0, x1, y1 = box[0] + left, box[1] + top, box[2] + left, box[3] + top
            cut = (
                (left > 0 and x0 <= left + 2)
                or (top > 0 and y0 <= top + 2)
                or (right < size[0] and x1 >= right - 2)
                or (bottom < size[1] and y1 >= bottom - 2)
            )
            rows.append((cut, -float(score), len(rows), number, int(concept), (x0, y0, x1, y1)))
    kept = []
    for row in sorted(rows):
        cut, _, _, number, concept, box = row
        drop = False
        for other in kept:
            shared = shared_area(box, other[5])
            if shared / (area(box) + area(other[5]) - shared) > 0.6:
                drop = True
            if cut and other[4] == concept and other[3] != number and shared / area(box) > INSIDE:
                drop = True
        if not drop:
            kept.append(row)
    order = sorted(range(len(kept)), key=lambda at: kept[at][1])
    return [kept[at][5] for at in order]


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def shared_area(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def small_view_detector(images):
    """Find bright squares in images that are reduced to VIEW px first, as a network's input is."""
    for image in images:
        view = np.asarray(image.convert("L").resize((VIEW, VIEW), Image.Resampling.BOX), np.float32)
        bright = view > 200
        boxes = []
        for row, column in zip(*np.nonzero(bright), strict=True):
            if (row and bright[row - 1, column]) or (column and bright[row, column - 1]):
                continue
            right, bottom = column, row
            while right + 1 < VIEW and bright[row, right + 1]:
                right += 1
            while bottom + 1 < VIEW and bright[bottom + 1, column]:
                bottom += 1
            boxes.append([column, row, right + 1, bottom + 1])
        across, down = image.width / VIEW, image.height / VIEW
        yield found(
            np.array(boxes, np.float32).reshape(-1, 4) * [across, down, across, down], size=image.size
        )


def mosaic(squares, side=512):
    pixels = np.zeros((side, side, 3), np.uint8)
    for left, top, length in squares:
        pixels[top : top + length, left : left + length] = 255
    return Image.fromarray(pixels)


def in_windows(images, side=VIEW, **options):
    return list(
        predict_in_windows(
            small_view_detector,
            images,
            Windows(side),
            empty=Prediction.empty(WORDS, (0, 0)),
            **({"strict": True, "top": 10_000, "nms": 0.0, "multi_label": False} | options),
        )
    )


def test_boxes_of_one_concept_are_suppressed_across_windows_as_within_one() -> None:
    """IoU 0.6, as the network's own suppression at 0.5 would drop."""
    parts = [found(np.array([box], np.float32)) for box in ([82, 30, 97, 60], [86, 30, 95, 60])]
    places = [(0, 0, 200, 200), (0, 0, 200, 200)]
    assert len(merge_windows(parts, places, (200, 200))) == 2
    assert len(merge_windows(parts, places, (200, 200), nms=0.5)) == 1
    others = [parts[0], replace(parts[1], concepts=parts[1].concepts + 1)]
    assert len(merge_windows(others, places, (200, 200), nms=0.5)) == 2, "of two concepts"


def test_windows_find_small_objects_of_a_large_photo_that_the_whole_photo_hides():
    small = [(41 * k + 7, 37 * k + 11, 6) for k in range(12)]
    photo = mosaic([*small, (300, 40, 128)])
    (whole,) = small_view_detector([photo])
    assert len(whole) == 1, "only the large square is seen at the reduced size"
    (both,) = in_windows([photo])
    assert len(both) == 13
    for left, top, length in small:
        box = np.array([left, top, left + length, top + length])
        assert (np.abs(both.boxes_xyxy - box).max(1) <= 1).any(), "each small square is found at its place"
    assert (np.abs(both.boxes_xyxy - [300, 40, 428, 168]).max(1) <= 8).any(), "and the large one once"


def test_photos_come_in_order_with_their_names_and_faults(tmp_path):
    mosaic([(10, 10, 8)], 128).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no photo")
    mosaic([(10, 10, 8), (90, 90, 8)], 128).save(tmp_path / "c.png")
    paths = [tmp_path / name for name in ("bad.png", "a.png", "bad.png", "c.png", "bad.png")]
    results = in_windows(paths, strict=False)
    assert [one.source for one in results] == [str(path) for path in paths]
    assert [bool(one.fault) for one in results] == [True, False, True, False, True]
    assert [len(one) for one in results] == [0, 1, 0, 2, 0]
    with pytest.raises(UserError, match=r"bad\.png"):
        in_windows(paths)


def test_no_photos_give_no_predictions_and_top_limits_the_merged_ones():
    assert in_windows([]) == []
    (one,) = in_windows([mosaic([(10 * k + 3, 10 * k + 3, 5) for k in range(40)])], top=3)
    assert len(one) == 3


def test_too_many_windows_are_refused():
    with pytest.raises(
        UserError, match=r"a photo of 2000 x 2000 px has \d+ windows, expected at most 100000"
    ):
        Windows(16, 0.99).of(2000, 2000)
    assert len(Windows(64, 0.2).of(9459, 9459)) < 100_000
