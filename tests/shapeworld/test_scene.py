"""Images depend only on seed and number, boxes on the visible ink; no two concepts share a drawing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.shapeworld.paint import background, contrasting_colour, dilate, texture, warp
from cckt.shapeworld.pictographs import BASE, CONCEPTS, NOVEL, drawings, letters, other_words, raster
from cckt.shapeworld.scene import MIN_VISIBLE, SIDE, Canvas, compose, render_photo, render_single


def test_no_names_give_an_image_without_drawings() -> None:
    empty = compose(np.random.default_rng(0), [], smallest=22)
    assert empty.drawn == ()
    assert empty.pixels.shape == (SIDE, SIDE, 3)
    assert empty.pixels.dtype == np.uint8


def test_concepts_words_and_letters() -> None:
    assert (len(BASE), len(NOVEL), len(CONCEPTS)) == (48, 17, 65)
    characters = "".join(drawings(name) for name in CONCEPTS)
    assert max(Counter(characters).values()) == 1, "expected each drawing in one concept"
    assert not set(characters) & set(other_words().values())
    assert not set(CONCEPTS) & set(other_words())
    assert len(other_words()) > 200
    assert len(letters()) > 200


@pytest.mark.parametrize("character", ["☂", "♞", "☃", "A"])
def test_a_raster_is_cropped_to_its_ink(character: str) -> None:
    ink = np.asarray(raster(character))
    assert max(ink.shape) == 96
    assert ink[0].any()
    assert ink[-1].any()
    assert ink[:, 0].any()
    assert ink[:, -1].any()


def test_no_two_drawings_are_equal() -> None:
    seen = {}
    for name in CONCEPTS:
        for character in drawings(name):
            key = raster(character).resize((24, 24)).tobytes()
            assert key not in seen, f"{name} and {seen.get(key)} have the same drawing"
            seen[key] = name


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**24 - 1), number=st.integers(0, 10**6))
def test_an_image_depends_only_on_seed_and_number(seed: int, number: int) -> None:
    first, second = render_photo(seed, number), render_photo(seed, number)
    assert (first.pixels == second.pixels).all()
    assert first.drawn == second.drawn
    assert len(first.objects) <= 6
    for one in first.drawn:
        left, top, right, bottom = one.box_xyxy
        assert 0 <= left < right <= SIDE
        assert 0 <= top < bottom <= SIDE
        assert 0 < one.area <= (right - left) * (bottom - top)


def test_other_numbers_give_other_images() -> None:
    assert not (render_photo(1, 0).pixels == render_photo(1, 1).pixels).all()
    assert not (render_photo(1, 0).pixels == render_photo(2, 0).pixels).all()


def test_the_box_is_tight_around_the_visible_ink() -> None:
    rng = np.random.default_rng(3)
    canvas = Canvas(rng, plain=True)
    before = canvas.pixels.copy()
    canvas.draw("♞", "chess knight", 48)
    (one,) = canvas.finish().drawn
    rows, columns = np.nonzero(np.abs(canvas.pixels - before).sum(-1) > 90)
    left, top, right, bottom = one.box_xyxy
    assert abs(columns.min() - left) <= 2
    assert abs(columns.max() + 1 - right) <= 2
    assert abs(rows.min() - top) <= 2
    assert abs(rows.max() + 1 - bottom) <= 2


def test_covered_drawings_keep_most_of_their_ink() -> None:
    for number in range(10):
        rng = np.random.default_rng((5, number))
        canvas = Canvas(rng)
        for name in ("umbrella", "anchor", "sun", "heart"):
            canvas.place(name, 60)
        visible = np.bincount(canvas.owner[canvas.owner >= 0], minlength=len(canvas.inks))
        assert all(part >= MIN_VISIBLE * whole for part, whole in zip(visible, canvas.inks, strict=True))


def test_a_single_drawing_on_a_plain_background() -> None:
    picture = render_single(np.random.default_rng(1), "☂", 64, 40, plain=True)
    assert picture.shape == (64, 64, 3)
    assert (picture == picture[0, 0]).all(-1).mean() > 0.3, "expected one background colour"


def test_paint_has_the_expected_shapes_and_ranges() -> None:
    rng = np.random.default_rng(2)
    assert background(rng, 32).shape == (32, 32, 3)
    first, second = np.zeros(3, np.float32), np.full(3, 255, np.float32)
    for _ in range(20):
        fill = texture(rng, (9, 14), first, second)
        assert fill.shape == (9, 14, 3)
        assert 0 <= fill.min() <= fill.max() <= 255
    assert np.linalg.norm(contrasting_colour(rng, first, 100)) >= 100
    mask = warp(rng, raster("☂"), 30, tilt=20)
    assert 15 <= max(mask.shape) <= 55
    assert dilate(mask, 2).shape == (mask.shape[0] + 4, mask.shape[1] + 4)
    assert (dilate(mask, 2)[2:-2, 2:-2] >= mask - 0.01).all()
