"""The order of training images, and their random generators; both are functions of the seed and the place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

ORDER, SAMPLE, TEACHER, MOSAIC = 1, 2, 3, 4
"""Independent streams of random numbers of one seed: order of an epoch; view and guidance of an image; choice
among the teacher's views of its crops; whether an image is a mosaic, and of which others."""


class Place(NamedTuple):
    """Place of a sample in the run. position: index in the epoch, over all ranks. image: image row of the
    index."""

    epoch: int
    position: int
    image: int


def generator(*key: int) -> np.random.Generator:
    """Return a generator that is a function of the key only."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@dataclass(frozen=True)
class Schedule(Sampler[list[Place]]):
    """The micro-batches of one rank, from `first_step` to `last_step`.

    Each epoch is a permutation given by (seed, epoch), cut into steps of `batch` images; the remainder is
    skipped until the next epoch. If there are fewer images than `batch`, they repeat within a step. The
    images of a step are dealt to ranks, then to the `accumulate` parts; which images a step holds depends on
    neither.
    """

    photos: int
    seed: int
    batch: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    first_step: int = 0
    last_step: int = 0
    image_rows: NDArray[np.int64] | None = field(default=None, compare=False)
    """(photos,) image rows of the photos that take part; None: 0 to photos - 1."""

    def __post_init__(self) -> None:
        parts = self.accumulate * self.world
        assert self.photos > 0, f"expected at least one image, found {self.photos}"
        assert self.batch % parts == 0, f"expected a batch divisible by {parts}, found {self.batch}"

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""
        return max(1, self.photos // self.batch)

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Place]]:
        order, drawn = np.arange(0), -1
        for step in range(self.first_step, self.last_step):
            epoch, within = divmod(step, self.steps_per_epoch)
            if epoch != drawn:
                order, drawn = self.order(epoch), epoch
            mine = range(within * self.batch + self.rank, (within + 1) * self.batch, self.world)
            places = [Place(epoch, position, int(order[position % self.photos])) for position in mine]
            size = len(places) // self.accumulate
            for part in range(self.accumulate):
                yield places[part * size : (part + 1) * size]

    def rows(self, step: int) -> list[int]:
        """Return the image rows of a step, over all ranks."""
        epoch, within = divmod(step, self.steps_per_epoch)
        positions = np.arange(within * self.batch, (within + 1) * self.batch)
        rows: list[int] = self.order(epoch)[positions % self.photos].tolist()
        return rows

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the permutation of image rows of an epoch."""
        order: NDArray[np.int64] = generator(self.seed, ORDER, epoch).permutation(self.photos)
        return order if self.image_rows is None else self.image_rows[order]
