"""Photos of shapeworld: each follows from a seed and a number.

A photo is 128 x 128 px: a cluttered ground, one to six things of the 65 concepts, and up to two
distractors that no concept names (letters, and pictographs of the other words). Things differ in drawing,
colour, texture, size, tilt and perspective, stand in front of each other and run over the edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from cckt.shapeworld.paint import Array, background, colour, contrasting, halo, texture, warp
from cckt.shapeworld.pictographs import CONCEPTS, drawings, letters, other_words, raster

Pixels: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"

SIDE = 128  # px
_LEAST_SEEN = 0.7  # of a thing's ink stays visible: inside the photo and not covered


@dataclass(frozen=True)
class Thing:
    """Something in a photo.

    `name`: a concept, another word, or "" for a letter. `box_xyxy`: (4,) float px, tight around the ink
    inside the photo. `area`: visible ink in px.
    """

    name: str
    box_xyxy: tuple[float, float, float, float]
    area: float

    @property
    def is_concept(self) -> bool:
        """Whether it is one of the 65."""
        return self.name in CONCEPTS


@dataclass(frozen=True)
class Photo:
    """A rendered photo: `pixels` (128, 128, 3) uint8 RGB and its things, back to front."""

    pixels: Pixels
    things: tuple[Thing, ...]

    @property
    def objects(self) -> tuple[Thing, ...]:
        """The things a concept names: what an annotator would box."""
        return tuple(thing for thing in self.things if thing.is_concept)


def photo(seed: int, number: int) -> Photo:
    """Photo `number` of the world `seed`; the same pixels whatever was rendered before."""
    rng = np.random.default_rng((seed, number))
    names = [CONCEPTS[row] for row in rng.integers(0, len(CONCEPTS), 1 + rng.binomial(5, 0.5))]
    names += [_stranger(rng) for _ in range(rng.binomial(2, 0.4))]
    return compose(rng, names, smallest=24, clutter=0.5)


def compose(rng: np.random.Generator, names: list[str], smallest: float, clutter: float = 1.0) -> Photo:
    """A photo that tries to hold a thing for each of `names` (concepts, other words, "" for a letter).

    The longest sides of things are from `smallest` to 72 px, every octave alike. clutter: how busy ground and
    surfaces are, from 0 to 1; the teacher reads at 1, data sets are rendered at 0.5.
    """
    canvas = Canvas(rng, clutter=clutter)
    for at in rng.permutation(len(names)):
        canvas.place(names[at], longest=float(np.exp(rng.uniform(np.log(smallest), np.log(72)))))
    return canvas.develop()


def specimen(rng: np.random.Generator, character: str, side: int, longest: float, plain: bool) -> Pixels:
    """A picture (side, side, 3) uint8 of one drawing of about `longest` px and nothing else.

    plain: one colour on another, without texture, clutter or grain: what a child's first book shows.
    """
    canvas = Canvas(rng, side, plain)
    canvas.draw(character, "", longest)
    return canvas.develop().pixels


class Canvas:
    """A photo being made: a ground, and things placed one over the other."""

    def __init__(
        self, rng: np.random.Generator, side: int = SIDE, plain: bool = False, clutter: float = 1.0
    ) -> None:
        self.rng = rng
        self.side = side
        self.plain = plain
        self.clutter = clutter
        self.pixels = np.tile(colour(rng), (side, side, 1)) if plain else background(rng, side, clutter)
        self.owner = np.full((side, side), -1)  # which thing's ink is on top, -1 for the ground
        self.inks: list[int] = []  # whole ink of each thing, px
        self.names: list[str] = []

    def place(self, name: str, longest: float) -> None:
        """Draw something called `name`, in one of its drawings, if there is room."""
        self.draw(a_drawing(self.rng, name), name, longest)

    def draw(self, character: str, name: str, longest: float) -> None:
        """Draw `character` about `longest` px long where it hides too much of no other, if there is room."""
        rng = self.rng
        mask = warp(rng, raster(character), longest, tilt=20)
        height, width = mask.shape
        for _ in range(12):
            over = 0.0 if self.plain else 0.2  # how much of it may run over the edge
            top = int(rng.uniform(-over * height, max(1, self.side - (1 - over) * height)))
            left = int(rng.uniform(-over * width, max(1, self.side - (1 - over) * width)))
            if self._fits(mask, top, left):
                break
        else:
            return
        self._paint(mask, top, left)
        self.names.append(name)

    def develop(self) -> Photo:
        """The finished photo: light, blur and grain over everything, boxes from the ink still visible."""
        rng = self.rng
        things = tuple(thing for thing in map(self._thing, range(len(self.names))) if thing is not None)
        if self.plain:
            return Photo(np.clip(self.pixels, 0, 255).astype(np.uint8), things)
        light = 1 + rng.uniform(-0.25, 0.25) * np.linspace(-1, 1, self.side, dtype=np.float32)
        pixels = self.pixels * (light[:, None, None] if rng.random() < 0.5 else light[None, :, None])
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        if rng.random() < 0.3:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
        grain = rng.normal(0, rng.uniform(0, 9 * self.clutter), (self.side, self.side, 3))
        return Photo(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8), things)

    def _fits(self, mask: Array, top: int, left: int) -> bool:
        """Whether `mask` there is visible enough itself and leaves every earlier thing so."""
        rows, columns, part = self._window(mask, top, left)
        ink = part > 0.4
        if ink.sum() < _LEAST_SEEN * (mask > 0.4).sum() or ink.sum() < 12:
            return False
        after = self.owner.copy()
        after[rows, columns][ink] = len(self.inks)
        seen = np.bincount(after[after >= 0].ravel(), minlength=len(self.inks) + 1)
        return all(seen[k] >= _LEAST_SEEN * whole for k, whole in enumerate(self.inks))

    def _paint(self, mask: Array, top: int, left: int) -> None:
        rng = self.rng
        rows, columns, part = self._window(mask, top, left)
        ground = self.pixels[rows, columns].reshape(-1, 3).mean(0)
        first = contrasting(rng, ground, least=160 if self.plain else 130 + 40 * (1 - self.clutter))
        second = first + (colour(rng) - first) * (0 if self.plain else rng.uniform(0, 0.45))
        if not self.plain and rng.random() < 0.2:  # a rim, as on a sticker
            reach = int(rng.integers(1, 3))
            rim = halo(mask, reach)
            r, c, edge = self._window(rim, top - reach, left - reach)
            self._blend(r, c, edge, contrasting(rng, first, least=150)[None, None])
        fill = texture(rng, (mask.shape[0], mask.shape[1]), first, second, self.clutter)
        window = (slice(max(0, -top), None), slice(max(0, -left), None))
        fill = fill[window][: part.shape[0], : part.shape[1]]
        self._blend(rows, columns, part * rng.uniform(0.85, 1.0), fill)
        self.owner[rows, columns][part > 0.4] = len(self.inks)
        self.inks.append(int((mask > 0.4).sum()))

    def _blend(self, rows: slice, columns: slice, alpha: Array, fill: Array) -> None:
        under = self.pixels[rows, columns]
        self.pixels[rows, columns] = under + alpha[..., None] * (fill - under)

    def _window(self, mask: Array, top: int, left: int) -> tuple[slice, slice, Array]:
        """The rows and columns of the photo that `mask` at (top, left) covers, and its part inside."""
        height, width = mask.shape
        rows = slice(max(0, top), max(0, min(self.side, top + height)))
        columns = slice(max(0, left), max(0, min(self.side, left + width)))
        part = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return rows, columns, part

    def _thing(self, k: int) -> Thing | None:
        rows, columns = np.nonzero(self.owner == k)
        if rows.size == 0:
            return None
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        return Thing(self.names[k], box, float(rows.size))


def a_drawing(rng: np.random.Generator, name: str) -> str:
    """One drawing of a concept or other word; an empty name gives a letter."""
    if not name:
        return letters()[rng.integers(len(letters()))]
    choices = drawings(name) if name in CONCEPTS else other_words()[name]
    return choices[rng.integers(len(choices))]


def _stranger(rng: np.random.Generator) -> str:
    """A distractor: a letter (""), or a pictograph whose word is not among the 65."""
    words = list(other_words())
    return "" if rng.random() < 0.6 else words[rng.integers(len(words))]
