"""Scores and detections against a reference in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from cckt.detector.config.config import InferenceConfig
from cckt.detector.inference.postprocess import (
    PRIOR_MARGIN,
    SAME_OBJECT,
    ImageDetections,
    best_per_object,
    class_scores,
    configured_scores,
    pixel_boxes,
    prior_log_odds,
    similarity_probability,
    top_detections,
)
from cckt.detector.students.contract import StudentOutput
from tests.detector.students.samples import some_boxes, unit


def some_output() -> StudentOutput:
    return StudentOutput(some_boxes(2, 3, 4), torch.randn(2, 3, 4, 5), unit(2, 3, 4, 6))


def test_zero_images_and_zero_concepts() -> None:
    assert top_detections(torch.zeros(0, 4, 5), torch.zeros(0, 4, 4), [], 3) == []
    (found,) = top_detections(torch.zeros(1, 4, 0), some_boxes(1, 4), [(10, 10)], 3)
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)


def test_scores_equal_a_reference_in_plain_loops() -> None:
    torch.manual_seed(0)
    output, text = some_output(), unit(5, 6)
    found = {kind: class_scores(output, text, 0.07, kind) for kind in ("similarity", "head", "product")}
    for b in range(3):
        for n in range(4):
            for c in range(5):
                cosine = sum(
                    x * y for x, y in zip(output.region[-1, b, n].tolist(), text[c].tolist(), strict=True)
                )
                similarity = 1 / (1 + math.exp(-cosine / 0.07))
                head = 1 / (1 + math.exp(-float(output.logits[-1, b, n, c])))
                assert float(found["similarity"][b, n, c]) == pytest.approx(similarity, rel=1e-4)
                assert float(found["head"][b, n, c]) == pytest.approx(head, rel=1e-4)
                assert float(found["product"][b, n, c]) == pytest.approx(
                    math.sqrt(similarity * head), rel=1e-4
                )


def test_concepts_that_are_not_present_score_zero() -> None:
    present = torch.tensor([[True, False, True, True, True]] * 3)
    found = class_scores(some_output(), unit(5, 6), 0.07, "similarity", present)
    assert not bool(found[..., 1].any())
    assert bool((found[..., [0, 2, 3, 4]] > 0).all())


def test_weighted_priors_multiply_the_odds_of_a_score() -> None:
    torch.manual_seed(0)
    output, text, priors = some_output(), unit(5, 6), torch.rand(3, 5)
    plain = class_scores(output, text, 0.07, "similarity").double()
    found = class_scores(output, text, 0.07, "similarity", log_odds=prior_log_odds(priors, 0.5)).double()
    for b in range(3):
        for c in range(5):
            prior = float(priors[b, c])
            for n in range(4):
                s = float(plain[b, n, c])
                odds = s / (1 - s) * math.sqrt(prior / (1 - prior))
                assert float(found[b, n, c]) == pytest.approx(odds / (1 + odds), rel=1e-4)


def test_softmax_multiplies_a_score_by_its_share_among_the_concepts() -> None:
    torch.manual_seed(0)
    output, text, priors = some_output(), unit(5, 6), torch.rand(3, 5)
    odds = prior_log_odds(priors, 0.5)
    plain = class_scores(output, text, 0.07, "product", log_odds=odds).double()
    found = class_scores(output, text, 0.07, "product", log_odds=odds, softmax=True).double()
    for b in range(3):
        for n in range(4):
            scores = plain[b, n].tolist()
            ratios = [s / (1 - s) for s in scores]
            for c in range(5):
                assert float(found[b, n, c]) == pytest.approx(scores[c] * ratios[c] / sum(ratios), rel=1e-3)
    single = class_scores(output, text[:1], 0.07, "similarity", softmax=True)
    assert torch.allclose(single, class_scores(output, text[:1], 0.07, "similarity")), (
        "the share of a single concept is 1"
    )
    certain = StudentOutput(some_boxes(1, 1, 1), torch.tensor([[[[100.0, -100.0]]]]), unit(1, 1, 1, 6))
    assert class_scores(certain, unit(2, 6), 0.07, "head", softmax=True)[0, 0].tolist() == pytest.approx(
        [1, 0]
    )


def test_configured_scores_apply_every_option() -> None:
    torch.manual_seed(0)
    output, text, priors = some_output(), unit(5, 6), torch.rand(3, 5)
    rows = [np.array([0, 2]), np.array([], np.int64), np.array([4])]
    present = torch.zeros(3, 5, dtype=torch.bool)
    present[0, [0, 2]] = present[2, 4] = True
    inference = InferenceConfig(
        restrict_to_present=True, prior_weight=0.5, softmax=True, classification="head"
    )
    expected = class_scores(output, text, 0.07, "head", present, prior_log_odds(priors, 0.5), softmax=True)
    assert torch.equal(configured_scores(inference, output, text, 0.07, rows, priors.numpy()), expected)
    without = configured_scores(InferenceConfig(prior_weight=0.5), output, text, 0.07, None, None)
    assert torch.equal(without, class_scores(output, text, 0.07, "similarity")), (
        "no priors, so prior_weight changes nothing"
    )


def test_priors_are_clamped_and_nan_changes_nothing() -> None:
    odds = prior_log_odds(torch.tensor([[0.0, 1.0, 0.5, float("nan")]]), 2.0)
    largest = 2 * math.log((1 - PRIOR_MARGIN) / PRIOR_MARGIN)
    assert odds.tolist() == [pytest.approx([-largest, largest, 0, 0], abs=1e-5)]
    certain = StudentOutput(some_boxes(1, 1, 1), torch.tensor([[[[100.0, -100.0]]]]), unit(1, 1, 1, 6))
    found = class_scores(
        certain, unit(2, 6), 0.07, "head", log_odds=prior_log_odds(torch.tensor([[0.0, 1.0]]), 1.0)
    )
    assert found.isfinite().all()
    assert float(found[0, 0, 0]) > 0.99
    assert float(found[0, 0, 1]) < 0.01


def test_similarity_probability_of_a_vector_with_itself() -> None:
    one = unit(1, 6)
    assert float(similarity_probability(one, one, 0.07)) == pytest.approx(1 / (1 + math.exp(-1 / 0.07)))


def test_nms_keeps_the_best_of_overlapping_detections_of_a_concept() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.44], [0.2, 0.2, 0.1, 0.1]]])
    scores = torch.tensor([[[0.9, 0.1], [0.8, 0.7], [0.3, 0.05]]])
    (every,) = top_detections(scores, boxes, [(100, 100)], 6)
    assert len(every) == 6
    (found,) = top_detections(scores, boxes, [(100, 100)], 6, nms=0.5)
    assert list(zip(found.concepts.tolist(), [round(s, 2) for s in found.scores.tolist()], strict=True)) == [
        (0, 0.9),
        (1, 0.7),
        (0, 0.3),
        (1, 0.05),
    ]
    (best,) = top_detections(scores, boxes, [(100, 100)], 2, nms=0.5)
    assert best.scores.tolist() == pytest.approx([0.9, 0.7])
    (loose,) = top_detections(scores, boxes, [(100, 100)], 6, nms=0.95)
    assert len(loose) == 6
    (nothing,) = top_detections(torch.zeros(1, 3, 0), boxes, [(10, 10)], 3, nms=0.5)
    assert len(nothing) == 0


def test_top_detections_equal_a_full_sort() -> None:
    torch.manual_seed(1)
    scores, boxes, sizes = torch.rand(2, 4, 5), some_boxes(2, 4), [(100, 200), (50, 30)]
    found = top_detections(scores, boxes, sizes, 7)
    for b, (height, width) in enumerate(sizes):
        ranked = sorted(((float(scores[b, n, c]), n, c) for n in range(4) for c in range(5)), reverse=True)[
            :7
        ]
        assert found[b].scores.tolist() == [one[0] for one in ranked]
        assert found[b].concepts.tolist() == [one[2] for one in ranked]
        for pixels, (_, n, _) in zip(found[b].boxes_xyxy.tolist(), ranked, strict=True):
            x, y, w, h = boxes[b, n].tolist()
            expected = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            assert pixels == pytest.approx(expected, abs=1e-3)


def one_per_object(
    scores: torch.Tensor, found: ImageDetections, top: int, requested: int, nms: float
) -> list[tuple[float, int]]:
    """(Score, concept) of the detections of an image, in plain loops; found.boxes_xyxy are its N boxes."""
    overlaps = box_iou(found.boxes_xyxy, found.boxes_xyxy).tolist()
    best = [(max(row), row.index(max(row))) for row in scores.tolist()]
    order = sorted(range(len(best)), key=lambda at: -best[at][0])
    for most, every in ((nms, False), (SAME_OBJECT, True)) if nms else ((SAME_OBJECT, True),):
        kept: list[int] = []
        for at in order:
            rivals = [k for k in kept if every or best[k][1] == best[at][1]]
            if all(overlaps[at][k] <= most for k in rivals):
                kept.append(at)
        order = kept
    return [best[at] for at in order if best[at][1] < requested][:top]


@pytest.mark.parametrize("nms", [0.0, 0.4])
@pytest.mark.parametrize(("requested", "top"), [(1, 100), (3, 100), (3, 2), (7, 100)])
def test_one_detection_per_object_equals_a_reference_in_plain_loops(
    requested: int, top: int, nms: float
) -> None:
    torch.manual_seed(requested)
    scores, boxes, sizes = torch.rand(5, 40, 7), some_boxes(5, 40), [(100, 200)] * 5
    found = best_per_object(scores, boxes, sizes, top, requested, nms)
    expected = 0
    for b in range(5):
        pixels = ImageDetections(torch.zeros(0), torch.zeros(0), pixel_boxes(boxes, sizes)[b])
        reference = one_per_object(scores[b], pixels, top, requested, nms)
        assert list(zip(found[b].scores.tolist(), found[b].concepts.tolist(), strict=True)) == reference
        expected += len(reference)
    assert expected > 4


def test_a_rival_suppresses_a_requested_detection_only_with_a_higher_score() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4]]])
    for rival, count in ((0.9, 0), (0.7, 1)):
        scores = torch.tensor([[[0.8, 0.0], [0.0, rival]]])
        (found,) = best_per_object(scores, boxes, [(100, 100)], 5, 1)
        assert len(found) == count
    assert best_per_object(torch.zeros(1, 0, 2), boxes[:, :0], [(9, 9)], 5, 1)[0].boxes_xyxy.shape == (0, 4)


def test_boxes_are_clipped_to_the_image_and_top_to_the_number_of_pairs() -> None:
    boxes = torch.tensor([[[0.0, 0.5, 0.4, 3.0]]])
    (found,) = top_detections(torch.ones(1, 1, 2), boxes, torch.tensor([[10, 20]]), 100)
    assert len(found) == 2
    assert found.boxes_xyxy[0].tolist() == [0.0, 0.0, 4.0, 10.0]
