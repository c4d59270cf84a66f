"""Batches in threads: the same predictions as one after the other, whatever the number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.detector.inference.predict import Predictor
from tests.detector.evaluation.evaluation_world import make_run, small_config
from tests.detector.inference.test_predict import SmallGuide


@pytest.fixture
def detector(tmp_path):
    torch.manual_seed(0)
    return Predictor.load(make_run(tmp_path / "run", small_config()), device="cpu", guide=SmallGuide())


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def photos(sizes):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.mark.parametrize("sizes", [[(50, 30)] * 7, [(50, 30), (30, 50), (40, 40), (50, 30), (64, 20)]])
def test_several_threads_give_the_predictions_of_one(detector, three_threads, sizes):
    images = photos(sizes)
    options = {"batch": len(images), "min_score": 0.0}
    several = detector.predict(images, "forklift, cat", **options)
    torch.set_num_threads(1)
    single = detector.predict(images, "forklift, cat", **options)
    assert len(several) == len(images)
    for one, other in zip(several, single, strict=True):
        assert one.size == other.size
        assert one.present == other.present
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(
            np.sort(one.boxes_xyxy, 0), np.sort(other.boxes_xyxy, 0), atol=2e-2
        )  # equal scores up to rounding may change places


def test_threads_are_used_for_parts_of_the_batch(detector, three_threads, monkeypatch):
    seen = []
    forward = type(detector.model).forward

    def noted(model, images, text, present, shape=None):
        seen.append((len(images), torch.get_num_threads(), shape))
        return forward(model, images, text, present, shape)

    monkeypatch.setattr(type(detector.model), "forward", noted)
    detector.predict(photos([(50, 30)] * 7), "cat", batch=7)
    assert sorted(count for count, _, _ in seen) == [1, 3, 3]
    assert {threads for _, threads, _ in seen} == {1}
    assert len({shape for _, _, shape in seen}) == 1
    seen.clear()
    detector.predict(photos([(50, 30)] * 2), "cat", batch=2)
    assert [count for count, _, _ in seen] == [2], "fewer images than threads: the operators use the threads"
