"""Which photos each step is trained on, and the random draws about them: they follow from seed and place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

ORDER, SAMPLE, TEACHER = 1, 2, 3
"""Streams of random numbers under one seed: the order of an epoch, one photo's view and guidance, and which
views of its objects the teacher's embeddings are of."""


class Place(NamedTuple):
    """Where a sample stands in the run; `position` counts the epoch's photos over all ranks."""

    epoch: int
    position: int
    image: int


def generator(*key: int) -> np.random.Generator:
    """Random numbers that follow from the key."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@dataclass(frozen=True)
class Schedule(Sampler[list[Place]]):
    """Which photos each micro-batch of a rank holds, from any step of the run to its end.

    Every epoch is a permutation by (seed, epoch), cut into steps of `batch` photos; the photos left over go
    unseen until the next epoch's other permutation. Fewer photos than `batch`: they repeat within the step.
    A step's photos are dealt to ranks, then to the `accumulate` parts: their union depends on neither.
    """

    photos: int
    seed: int
    batch: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    first_step: int = 0
    last_step: int = 0

    def __post_init__(self) -> None:
        assert self.photos > 0, "no photos"
        assert self.batch % (self.accumulate * self.world) == 0, "batch does not divide"

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
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
        """Image rows of a step's photos, over all ranks."""
        epoch, within = divmod(step, self.steps_per_epoch)
        positions = np.arange(within * self.batch, (within + 1) * self.batch)
        rows: list[int] = self.order(epoch)[positions % self.photos].tolist()
        return rows

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's permutation of image rows."""
        order: NDArray[np.int64] = generator(self.seed, ORDER, epoch).permutation(self.photos)
        return order
