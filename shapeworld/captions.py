"""Render the training images of the teacher, with captions of whole images and words of crops, but no boxes.

They show the 65 concepts and all other words. Their seed is reserved, so they differ from the images of every
data set.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cckt.cache_builder.runner.read_ahead import follow_parent
from cckt.shapeworld.pictographs import CONCEPTS, other_words
from cckt.shapeworld.scene import SIDE, Photo, Pixels, compose

TEMPLATES = (
    *(
        "a photo of a {}.",
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
    ),
    *("a {} in a video game.", "art of the {}.", "a photo of the small {}.", "a cropped photo of a {}."),
    *("a photo of a {} in the scene.", "a photo of many {}.", "a blurry photo of a {}.", "a {}.", "{}"),
    *("a picture of a {}.", "there is a {} in the photo."),
)
_SEED = 0x7EAC4E2
"""Seed of the training images; above LARGEST_SEED of data sets."""


def words() -> tuple[str, ...]:
    """Return all W words: the 65 concepts, then the other words."""
    return (*CONCEPTS, *other_words())


@dataclass(frozen=True)
class CaptionedPhotos:
    """Images with the words of their captions, and crops with a word.

    photos: (P, 128, 128, 3) uint8. crops: (K, 5) float32, image row and left, top, right, bottom in pixels.
    crop_words: (K,) int64, row in `words()` of each crop. caption_words: (P, W) bool, words of each caption.
    """

    photos: Pixels
    crops: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    crop_words: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    caption_words: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

    def crop(self, row: int, side: int, margins: np.ndarray | None = None) -> Image.Image:
        """Return crop `row`, resized to (side, side).

        margins: (4,) outward shifts of left, top, right and bottom, as shares of the longer side of the crop.
        """
        photo, left, top, right, bottom = self.crops[row]
        move = (np.zeros(4) if margins is None else margins) * max(right - left, bottom - top)
        box = np.clip((left - move[0], top - move[1], right + move[2], bottom + move[3]), 0, SIDE)
        picture = Image.fromarray(self.photos[int(photo)])
        edges = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        return picture.resize((side, side), Image.Resampling.BICUBIC, box=edges)


def render_captioned(count: int, part: int, workers: int) -> CaptionedPhotos:
    """Render images 0 to `count` - 1 of part `part` of the training images, with `workers` processes."""
    with ProcessPoolExecutor(workers, initializer=follow_parent) as pool:
        photos = list(pool.map(_render, [part] * count, range(count), chunksize=64))
    row_of = {word: row for row, word in enumerate(words())}
    caption_words = np.zeros((count, len(row_of)), bool)
    crops, crop_words = [], []
    for row, photo in enumerate(photos):
        for one in photo.drawn:
            if one.name:
                caption_words[row, row_of[one.name]] = True
                crops.append((row, *one.box_xyxy))
                crop_words.append(row_of[one.name])
    return CaptionedPhotos(
        np.stack([photo.pixels for photo in photos]),
        np.array(crops, np.float32),
        np.array(crop_words, np.int64),
        caption_words,
    )


def _render(part: int, number: int) -> Photo:
    rng = np.random.default_rng((_SEED, part, number))
    others = list(other_words())
    names = []
    for _ in range(1 + rng.binomial(5, 0.5)):
        concept = rng.random() < 0.55
        names.append(CONCEPTS[rng.integers(65)] if concept else others[rng.integers(len(others))])
    names += [""] * int(rng.binomial(3, 0.25))
    return compose(rng, names, smallest=20, clutter=float(rng.uniform(0.3, 1.0)))
