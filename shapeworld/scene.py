"""Render shapeworld images; each depends only on a seed and a number.

An image has 128 x 128 pixels: a cluttered background, one to six drawings of the 65 concepts, and up to two
distractors (letters, and pictographs of the other words). Drawings differ in character, colour, texture,
size, rotation and perspective, may cover each other and may extend over the edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from cckt.shapeworld.paint import (
    Array,
    background,
    contrasting_colour,
    dilate,
    random_colour,
    texture,
    warp,
)
from cckt.shapeworld.pictographs import CONCEPTS, drawings, letters, other_words, raster

Pixels: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"

SIDE = 128
"""Width and height of an image in pixels."""
MIN_VISIBLE = 0.7
"""Smallest visible share of the ink of a drawing: inside the image and not covered."""
_INK = 0.4
"""Mask value above which a pixel counts as ink."""


@dataclass(frozen=True)
class DrawnObject:
    """A drawing in an image.

    name: a concept, another word, or "" for a letter. box_xyxy: in pixels, tight around the visible ink.
    area: visible ink in pixels.
    """

    name: str
    box_xyxy: tuple[float, float, float, float]
    area: float

    @property
    def is_concept(self) -> bool:
        """Whether it shows one of the 65 concepts."""
        return self.name in CONCEPTS


@dataclass(frozen=True)
class Photo:
    """A rendered image: pixels (128, 128, 3) uint8 RGB, and its drawings from back to front."""

    pixels: Pixels
    drawn: tuple[DrawnObject, ...]

    @property
    def objects(self) -> tuple[DrawnObject, ...]:
        """The drawings of concepts, which a data set annotates."""
        return tuple(one for one in self.drawn if one.is_concept)


def render_photo(seed: int, number: int) -> Photo:
    """Render image `number` of a seed."""
    rng = np.random.default_rng((seed, number))
    names = [CONCEPTS[row] for row in rng.integers(0, len(CONCEPTS), 1 + rng.binomial(5, 0.5))]
    names += [_distractor(rng) for _ in range(rng.binomial(2, 0.4))]
    return compose(rng, names, smallest=24, clutter=0.5)


def compose(rng: np.random.Generator, names: list[str], smallest: float, clutter: float = 1.0) -> Photo:
    """Render an image with a drawing for each name that finds room.

    names: concepts, other words, or "" for a letter. The long side of a drawing is log-uniform from
    `smallest` to 72 pixels. clutter: amount of texture in background and drawings, from 0 to 1; data sets
    have 0.5.
    """
    canvas = Canvas(rng, clutter=clutter)
    for row in rng.permutation(len(names)):
        canvas.place(names[row], longest=float(np.exp(rng.uniform(np.log(smallest), np.log(72)))))
    return canvas.finish()


def render_single(rng: np.random.Generator, character: str, side: int, longest: float, plain: bool) -> Pixels:
    """Render an image (side, side, 3) uint8 of one drawing of about `longest` pixels.

    plain: one colour on another, without texture, clutter or noise.
    """
    canvas = Canvas(rng, side, plain)
    canvas.draw(character, "", longest)
    return canvas.finish().pixels


class Canvas:
    """An image in progress: a background, and drawings placed one over the other."""

    def __init__(
        self, rng: np.random.Generator, side: int = SIDE, plain: bool = False, clutter: float = 1.0
    ) -> None:
        self.rng = rng
        self.side = side
        self.plain = plain
        self.clutter = clutter
        self.pixels = (
            np.tile(random_colour(rng), (side, side, 1)) if plain else background(rng, side, clutter)
        )
        self.owner = np.full((side, side), -1)  # number of the topmost drawing; -1 is background
        self.inks: list[int] = []  # ink of each drawing before anything covers it, in pixels
        self.names: list[str] = []

    def place(self, name: str, longest: float) -> None:
        """Draw one of the drawings of `name`, if there is room."""
        self.draw(pick_drawing(self.rng, name), name, longest)

    def draw(self, character: str, name: str, longest: float) -> None:
        """Draw `character` at a random place that leaves every drawing visible enough.

        longest: long side in pixels. Nothing is drawn if 12 random places do not fit.
        """
        rng = self.rng
        mask = warp(rng, raster(character), longest, tilt=20)
        height, width = mask.shape
        for _ in range(12):
            over = 0.0 if self.plain else 0.2  # share that may extend over the edge
            top = int(rng.uniform(-over * height, max(1, self.side - (1 - over) * height)))
            left = int(rng.uniform(-over * width, max(1, self.side - (1 - over) * width)))
            if self._fits(mask, top, left):
                break
        else:
            return
        self._paint(mask, top, left)
        self.names.append(name)

    def finish(self) -> Photo:
        """Add light, blur and noise; return the image with the boxes of the visible ink."""
        rng = self.rng
        drawn = tuple(one for one in map(self._drawn_object, range(len(self.names))) if one is not None)
        if self.plain:
            return Photo(np.clip(self.pixels, 0, 255).astype(np.uint8), drawn)
        light = 1 + rng.uniform(-0.25, 0.25) * np.linspace(-1, 1, self.side, dtype=np.float32)
        pixels = self.pixels * (light[:, None, None] if rng.random() < 0.5 else light[None, :, None])
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        if rng.random() < 0.3:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
        grain = rng.normal(0, rng.uniform(0, 9 * self.clutter), (self.side, self.side, 3))
        return Photo(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8), drawn)

    def _fits(self, mask: Array, top: int, left: int) -> bool:
        """Return whether `mask` at (top, left) and all earlier drawings are visible enough."""
        rows, columns, part = self._window(mask, top, left)
        ink = part > _INK
        if ink.sum() < MIN_VISIBLE * (mask > _INK).sum() or ink.sum() < 12:
            return False
        after = self.owner.copy()
        after[rows, columns][ink] = len(self.inks)
        visible = np.bincount(after[after >= 0].ravel(), minlength=len(self.inks) + 1)
        return all(visible[k] >= MIN_VISIBLE * whole for k, whole in enumerate(self.inks))

    def _paint(self, mask: Array, top: int, left: int) -> None:
        """Paint the mask in two contrasting colours, sometimes with a rim, and record its ink."""
        rng = self.rng
        rows, columns, part = self._window(mask, top, left)
        under = self.pixels[rows, columns].reshape(-1, 3).mean(0)
        first = contrasting_colour(rng, under, least=160 if self.plain else 130 + 40 * (1 - self.clutter))
        second = first + (random_colour(rng) - first) * (0 if self.plain else rng.uniform(0, 0.45))
        if not self.plain and rng.random() < 0.2:  # a rim like that of a sticker
            reach = int(rng.integers(1, 3))
            rim = dilate(mask, reach)
            r, c, edge = self._window(rim, top - reach, left - reach)
            self._blend(r, c, edge, contrasting_colour(rng, first, least=150)[None, None])
        fill = texture(rng, (mask.shape[0], mask.shape[1]), first, second, self.clutter)
        window = (slice(max(0, -top), None), slice(max(0, -left), None))
        fill = fill[window][: part.shape[0], : part.shape[1]]
        self._blend(rows, columns, part * rng.uniform(0.85, 1.0), fill)
        self.owner[rows, columns][part > _INK] = len(self.inks)
        self.inks.append(int((mask > _INK).sum()))

    def _blend(self, rows: slice, columns: slice, alpha: Array, fill: Array) -> None:
        under = self.pixels[rows, columns]
        self.pixels[rows, columns] = under + alpha[..., None] * (fill - under)

    def _window(self, mask: Array, top: int, left: int) -> tuple[slice, slice, Array]:
        """Return the rows and columns that `mask` at (top, left) covers, and its part inside the image."""
        height, width = mask.shape
        rows = slice(max(0, top), max(0, min(self.side, top + height)))
        columns = slice(max(0, left), max(0, min(self.side, left + width)))
        part = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return rows, columns, part

    def _drawn_object(self, k: int) -> DrawnObject | None:
        """Return drawing number k by its visible ink; None if it is covered."""
        rows, columns = np.nonzero(self.owner == k)
        if rows.size == 0:
            return None
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        return DrawnObject(self.names[k], box, float(rows.size))


def pick_drawing(rng: np.random.Generator, name: str) -> str:
    """Return a random drawing of a concept or other word; an empty name gives a letter."""
    if not name:
        return letters()[rng.integers(len(letters()))]
    choices = drawings(name) if name in CONCEPTS else other_words()[name]
    return choices[rng.integers(len(choices))]


def _distractor(rng: np.random.Generator) -> str:
    """Return the name of a distractor: "" for a letter, or another word."""
    words = list(other_words())
    return "" if rng.random() < 0.6 else words[rng.integers(len(words))]
