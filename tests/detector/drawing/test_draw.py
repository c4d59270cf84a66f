"""Drawing: sizes, colours, legible text, positions of labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.drawing.colours import colour_of, contrast, ink_on, oklch
from cckt.detector.drawing.draw import MARGIN_WIDTH, Mark, draw_marks, draw_prediction, enlarge
from cckt.detector.drawing.legend import SYMBOLS, legend_strip
from cckt.detector.drawing.place_labels import label_size, place_labels
from cckt.detector.drawing.sheet import Tile, contact_sheet
from cckt.detector.drawing.text import font
from cckt.detector.inference.prediction import Prediction

GREY = (120, 120, 120)


def photo(width=128, height=128):
    return Image.new("RGB", (width, height), GREY)


def different(one, other):
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max(2) > 8


def test_no_marks_change_only_the_size():
    drawn = draw_marks(photo(), [])
    assert drawn.size == (512, 512)
    assert not different(drawn, Image.new("RGB", (512, 512), GREY)).any()
    empty = Prediction.empty(Vocabulary.free("cat"), (128, 128))
    assert draw_prediction(photo(), empty).tobytes() == drawn.tobytes()


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((128, 96), (512, 384)), ((640, 480), (640, 480)), ((1, 1), (512, 512)), ((4096, 64), (2048, 32))],
)
def test_small_images_are_enlarged_by_integer_factors_and_large_ones_reduced(size, drawn):
    assert enlarge(photo(*size)).size == drawn


def test_other_modes_are_converted_and_the_input_is_unchanged():
    grey = Image.new("L", (600, 600), 90)
    drawn = draw_marks(grey, [Mark((50, 50, 300, 300), "cat", 0.5)])
    assert (drawn.mode, grey.getextrema()) == ("RGB", (90, 90))


def test_a_box_is_drawn_at_its_position():
    drawn = draw_marks(photo(600, 600), [Mark((100, 200, 300, 400), "cat", 0.5)])
    changed = different(drawn, photo(600, 600))
    assert changed[300, 95:106].any()
    assert changed[300, 295:306].any()
    assert not changed[300, 120:280].any()
    assert not changed[:, 500:].any()


def test_novel_marks_have_a_star_a_dashed_outline_and_a_legend():
    plain, novel = (
        draw_marks(photo(600, 600), [Mark((100, 200, 500, 500), "cat", 0.5, n)]) for n in (False, True)
    )
    assert novel.height > plain.height == 600
    white = (np.asarray(novel)[:600] > 240).all(2)
    assert white[300:400, 95:106].any()
    assert not (np.asarray(plain)[300:400, 95:106] > 240).all(2).any()
    assert Mark((0, 0, 1, 1), "cat", 0.5, True).text == "★ cat 0.50"


def test_empty_and_outside_boxes_are_drawn_at_the_edge():
    marks = [
        Mark((-50, -50, -20, -20), "out", 0.3),
        Mark((60, 60, 60, 60), "point", 0.2),
        Mark((90, 90, 900, 900), "big"),
    ]
    assert draw_marks(photo(), marks).size == (512, 512)


@settings(deadline=None, max_examples=50)
@given(name=st.text(min_size=1, max_size=30))
def test_colours_depend_on_names_and_have_legible_text(name):
    colour = colour_of(name)
    assert colour == colour_of.__wrapped__(name)
    assert all(0 <= channel <= 255 for channel in colour)
    assert contrast(colour, ink_on(colour)) >= 4.5


def test_oklch_gives_black_white_and_red():
    assert oklch(1.0, 0.0, 0.0) == (255, 255, 255)
    assert oklch(0.0, 0.0, 0.0) == (0, 0, 0)
    np.testing.assert_allclose(oklch(0.62796, 0.25768, 29.234), (255, 0, 0), atol=12)


@pytest.mark.parametrize("symbol", "★✓✗○")
def test_the_font_has_the_symbols(symbol):
    glyph = font(20).getmask(symbol)
    assert bytes(glyph) != bytes(font(20).getmask("\U000f0000"))  # the placeholder of a missing glyph


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 40))
def test_labels_stay_inside_and_repeated_ones_do_not_overlap(seed, count):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 400, (count, 2))
    boxes = [(*corner, *(corner + rng.uniform(5, 200, 2))) for corner in low]
    names = [f"concept {k % 5}" for k in range(count)]
    texts = [(f"{name} 0.50", name) for name in names]
    labels = place_labels(boxes, texts, font(14), (512, 512), 2.0, names)
    assert len(labels) == count
    seen = set()
    for k, label in enumerate(labels):
        first = names[k] not in seen
        seen.add(names[k])
        if label is None:
            assert not first  # the best detection of a concept always has a label
            continue
        left, top, right, bottom = label.box
        assert min(left, top) >= 0
        assert max(right, bottom) <= 512 + 1e-6
        if not first:
            size = (right - left) * (bottom - top)
            shared = sum(_shared(label.box, other.box) for other in labels[:k] if other)
            assert shared / size <= 0.11


def _shared(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0, wide) * max(0, high)


@pytest.mark.parametrize("size", [(700, 3), (3, 700), (9, 9), (4096, 8)])
def test_labels_of_narrow_and_flat_images_are_not_cut_off(size):
    image = photo(*size)
    canvas = enlarge(image)
    drawn = draw_marks(image, [Mark((0, 0, *size), "a long name of a concept", 0.5)])
    face = font(min(30, max(13, round(max(canvas.size) / 42))))
    width, height = label_size("a long name of a concept", face)
    assert drawn.width >= min(width, MARGIN_WIDTH)
    assert drawn.height >= height
    assert drawn.width >= canvas.width
    assert drawn.height >= canvas.height
    inside = np.asarray(drawn)[: canvas.height, : canvas.width]
    assert inside.shape == (canvas.height, canvas.width, 3), "the image itself keeps its place"


def test_verdicts_differ_without_colour():
    """Each verdict has its own grey picture and its own symbol."""
    box = (100, 200, 400, 500)
    pictures, texts = {}, set()
    for verdict in SYMBOLS:
        mark = Mark(box, "cat", None if verdict == "missed" else 0.5, False, verdict)
        texts.add(mark.text.split()[0])
        drawn = draw_marks(photo(600, 600), [mark], legend=False).convert("L")
        pictures[verdict] = np.asarray(drawn, int)
    assert len(texts) == 4
    assert Mark(box, "cat", 0.5, True, "wrong").text == "✗★ cat 0.50"
    for one, other in itertools.combinations(pictures.values(), 2):
        assert (np.abs(one - other) > 60).sum() > 100
    middle = (slice(345, 356), slice(245, 256))
    crossed = {verdict: np.ptp(grey[middle]) > 60 for verdict, grey in pictures.items()}
    assert crossed == {"": False, "right": False, "wrong": True, "missed": False}


def test_the_legend_explains_the_marks_that_are_drawn():
    nothing = draw_marks(photo(600, 600), [Mark((100, 200, 400, 500), "cat", 0.5)])
    assert nothing.height == 600
    every = {(novel, verdict) for novel in (False, True) for verdict in SYMBOLS}
    heights = [legend_strip(300, 14, kinds).height for kinds in ({(True, "")}, every)]
    assert heights[0] < heights[1], "entries wrap"


def test_a_label_wider_than_the_image_is_shortened():
    (label,) = place_labels(
        [(0, 0, 50, 50)], [("a very long name indeed " * 5,)], font(14), (120, 80), 2.0, ["x"]
    )
    assert label.text.endswith("…")
    assert label.box[2] <= 120


def test_a_sheet_without_tiles_has_a_sentence():
    sheet = contact_sheet([])
    assert sheet.size[0] > 300
    assert (np.asarray(sheet) < 150).any()


def test_a_sheet_arranges_images_in_columns():
    marks = [Mark((20, 20, 90, 90), "cat", 0.7, True)]
    tiles = [Tile(photo(), marks, f"photo {k}") for k in range(4)]
    wide = contact_sheet(tiles, columns=2, cell=200, title="Found")
    narrow = contact_sheet(tiles, columns=1, cell=200, title="Found")
    assert wide.width > 400 > narrow.width
    assert narrow.height > 1.7 * wide.height
