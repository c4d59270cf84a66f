"""Pictures of what was found and never annotated."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cckt.cache_builder.base.progress import Silent
from cckt.detector.drawing.gallery import SINGLES, draw_finds
from cckt.detector.inference.prediction import Prediction
from tests.detector.evaluation.evaluation_world import make_data

KITE = 2
"""The novel concept, on every photo from the fourth on."""


class Finder:
    """A detector that is surer of a kite the later the photo, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def stream(self, photos, vocabulary):
        for at, path in enumerate(photos):
            self.asked.append(path.name)
            boxes = np.array([[1, 2, 9, 14], [20, 2, 30, 14]], np.float32)
            scores = np.array([0.99, 0.5 + 0.04 * at], np.float32)
            yield Prediction(boxes, scores, np.array([0, KITE]), vocabulary, (40, 32), str(path))


def test_the_surest_novel_finds_come_first(tmp_path):
    index, finder = make_data(tmp_path / "world", photos=11), Finder()
    pictures = draw_finds(tmp_path / "pictures", finder, index, Silent())
    assert finder.asked == [f"{k}.png" for k in range(3, 11)]  # of those that show a kite, no other
    surest = [f"{k}.png" for k in range(10, 10 - SINGLES, -1)]
    assert [path.name for path in pictures] == ["sheet.png", *surest]
    for path in pictures:
        Image.open(path).verify()


def test_without_anything_novel_there_is_nothing_to_draw(tmp_path):
    index, finder = make_data(tmp_path / "world", photos=3), Finder()
    assert draw_finds(tmp_path / "pictures", finder, index, Silent()) == []
    assert finder.asked == []
    assert not (tmp_path / "pictures").exists()
