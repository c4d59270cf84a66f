"""What the teacher reads: photos with captions, and cut-outs with a word, but never a box.

The reading world holds the 65 concepts and every other word; seeds of its own keep it apart from any
photo a data set is rendered from.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cckt.shapeworld.pictographs import CONCEPTS, other_words
from cckt.shapeworld.scene import Photo, Pixels, compose

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
_READING_SEED = 0x7EAC4E2  # no data set is rendered from it: a user's seed is below 2**24


def words() -> tuple[str, ...]:
    """Every word of the language: the 65 concepts, then the other words."""
    return (*CONCEPTS, *other_words())


@dataclass(frozen=True)
class Reading:
    """Photos (P, 128, 128, 3) uint8 and, for each, what an author saw in it.

    `cutouts`: (K, 5) float32 rows of photo, left, top, right, bottom (px) of things with a word;
    `meanings`: (K,) int64 row of that word in `words()`; `mentioned`: (P, W) bool, the words of each caption.
    """

    photos: Pixels
    cutouts: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    meanings: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    mentioned: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

    def cut(self, row: int, side: int, slack: np.ndarray | None = None) -> Image.Image:
        """Cut-out `row` squashed to `side` px; `slack` (4,) moves its edges by parts of its longer side."""
        photo, left, top, right, bottom = self.cutouts[row]
        move = (np.zeros(4) if slack is None else slack) * max(right - left, bottom - top)
        box = np.clip((left - move[0], top - move[1], right + move[2], bottom + move[3]), 0, 128)
        picture = Image.fromarray(self.photos[int(photo)])
        edges = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        return picture.resize((side, side), Image.Resampling.BICUBIC, box=edges)


def read(photos: int, part: int, workers: int) -> Reading:
    """Render `photos` photos of volume `part` of the reading world, with `workers` processes."""
    with ProcessPoolExecutor(workers) as pool:
        pages = list(pool.map(_page, [part] * photos, range(photos), chunksize=64))
    row_of = {word: row for row, word in enumerate(words())}
    mentioned = np.zeros((photos, len(row_of)), bool)
    cutouts, meanings = [], []
    for row, page in enumerate(pages):
        for thing in page.things:
            if thing.name:
                mentioned[row, row_of[thing.name]] = True
                cutouts.append((row, *thing.box_xyxy))
                meanings.append(row_of[thing.name])
    return Reading(
        np.stack([page.pixels for page in pages]),
        np.array(cutouts, np.float32),
        np.array(meanings, np.int64),
        mentioned,
    )


def _page(part: int, number: int) -> Photo:
    rng = np.random.default_rng((_READING_SEED, part, number))
    others = list(other_words())
    names = []
    for _ in range(1 + rng.binomial(5, 0.5)):
        concept = rng.random() < 0.55
        names.append(CONCEPTS[rng.integers(65)] if concept else others[rng.integers(len(others))])
    names += [""] * int(rng.binomial(3, 0.25))
    return compose(rng, names, smallest=20, clutter=float(rng.uniform(0.3, 1.0)))
