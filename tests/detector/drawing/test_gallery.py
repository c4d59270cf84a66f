"""Images of novel concepts that a detector found."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cckt.cache_builder.base.progress import Silent
from cckt.detector.drawing.gallery import SINGLES, draw_finds
from cckt.detector.inference.prediction import Prediction
from tests.detector.evaluation.evaluation_world import make_data

KITE = 2
"""Row of the novel concept, in every image from the fourth on."""


class Finder:
    """A stand-in whose kite scores rise from image to image, and which records the images."""

    def __init__(self):
        self.images = []

    def stream(self, photos, vocabulary):
        for at, path in enumerate(photos):
            self.images.append(path.name)
            boxes = np.array([[1, 2, 9, 14], [20, 2, 30, 14]], np.float32)
            scores = np.array([0.99, 0.5 + 0.04 * at], np.float32)
            yield Prediction(boxes, scores, np.array([0, KITE]), vocabulary, (40, 32), str(path))


def test_images_with_the_highest_novel_scores_come_first(tmp_path):
    index, finder = make_data(tmp_path / "world", photos=11), Finder()
    pictures = draw_finds(tmp_path / "pictures", finder, index, Silent())
    assert finder.images == [f"{k}.png" for k in range(3, 11)]  # only images with a kite
    best = [f"{k}.png" for k in range(10, 10 - SINGLES, -1)]
    assert [path.name for path in pictures] == ["sheet.png", *best]
    for path in pictures:
        Image.open(path).verify()


def test_without_novel_annotations_nothing_is_drawn(tmp_path):
    index, finder = make_data(tmp_path / "world", photos=3), Finder()
    assert draw_finds(tmp_path / "pictures", finder, index, Silent()) == []
    assert finder.images == []
    assert not (tmp_path / "pictures").exists()
