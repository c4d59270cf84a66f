"""Scores of the best boxes by the teacher, against eq. 32 written out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.detector.inference.confirm import Confirmation, CropsOfBatch, confirmed_scores

BOXES = torch.tensor(
    [[[0.25, 0.5, 0.5, 1.0], [0.25, 0.5, 0.5, 0.98], [0.75, 0.5, 0.5, 1.0], [0.5, 0.5, 1, 1]]]
)
TEXT = torch.eye(3, 4)


class Eye:
    """A teacher that sees a colour: the embedding depends on the left edge of the box."""

    logit_scale, logit_bias = 10.0, -1.0

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def crops(self, photos: Sequence[Image.Image], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.calls.append([len(one) for one in boxes])
        return [
            np.array([[0.6, 0.8, 0, 0] if box[0] < 1 else [0, 0, 0.8, 0.6] for box in one], np.float32)
            for one in boxes
        ]


def confirmed(scores: torch.Tensor, count: int, eye: Eye | None = None) -> torch.Tensor:
    photos = [Image.new("RGB", (40, 20))] * len(scores)
    crops = CropsOfBatch(Confirmation(eye or Eye(), count), photos, BOXES.expand(len(scores), -1, -1))
    return confirmed_scores(scores, TEXT, crops)


def test_no_box_and_no_score_are_no_confirmation() -> None:
    assert not confirmed(torch.zeros(1, 4, 3), 2).any()


def test_scores_are_those_of_the_equation_and_other_boxes_get_zero() -> None:
    scores = torch.tensor([[[0.1, 0.2, 0.3], [0.2, 0.25, 0.1], [0.4, 0.1, 0.1], [0.05, 0.01, 0.01]]])
    found = confirmed(scores, 2)[0]
    logits = [10 * cosine - 1 for cosine in (0.6, 0.8, 0.0)]
    total = sum(map(math.exp, logits))
    expected = [math.sqrt(0.3) * math.exp(one) / total / (1 + math.exp(-one)) for one in logits]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert found[2].argmax() == 2
    assert not found[1].any(), "box 1 shows the object of box 0"
    assert not found[3].any(), "only the two best boxes are looked at"


def test_concepts_that_are_ruled_out_stay_out() -> None:
    scores = torch.full((1, 4, 3), 0.5)
    scores[..., 1] = 0
    found = confirmed(scores, 4)
    assert (found[..., 1] == 0).all()
    assert (found.amax(-1) > 0).sum() == 3


def test_a_batch_equals_single_images_and_crops_are_embedded_once() -> None:
    torch.manual_seed(0)
    scores = torch.rand(3, 4, 3)
    together = confirmed(scores, 3)
    for number in range(3):
        torch.testing.assert_close(together[[number]], confirmed(scores[[number]], 3))
    eye = Eye()
    crops = CropsOfBatch(Confirmation(eye, 4), [Image.new("RGB", (40, 20))] * 3, BOXES.expand(3, -1, -1))
    confirmed_scores(scores, TEXT, crops)
    confirmed_scores(scores[..., :2], TEXT[:2], crops)
    assert sum(map(sum, eye.calls)) <= 12
    confirmed_scores(scores, TEXT, crops)
    assert len(eye.calls) <= 2


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_a_number_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(UserError, match="from 1 to 1000"):
        Confirmation(Eye(), count)
