"""A batch on the CPU, in tiles that fit the caches, each computed by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
TILE = 16
"""Images of a tile. Of 8, 16, 32 and 64 it was fastest with shapeworld's ResNet, in fp32 and in bf16; larger
tiles exceed a core's cache."""


class Tiles:
    """`threads` threads, each of which computes whole tiles with single-threaded operators.

    Threads within an operator scale worse: they wait for each other in a busy loop at the end of every
    operator, which takes time from the threads that decode. Also, a tile's floats depend only on the tile, so
    that a column's bytes do not depend on the number of cores.
    """

    def __init__(self, threads: int) -> None:
        assert threads >= 1, f"expected at least one thread, found {threads}"
        self.threads = threads
        before, begun = torch.get_num_threads(), threading.Barrier(threads + 1)

        def begin() -> None:
            torch.set_num_threads(1)  # also the default of later threads, which is restored below
            torch.get_num_threads()  # a thread reads the default at its first call: do it now
            begun.wait()

        self._pool = ThreadPoolExecutor(threads, "cckt-tiles", initializer=begin)
        for _ in range(threads):
            self._pool.submit(int)
        begun.wait()
        torch.set_num_threads(before)

    def launch(self, work: Callable[[Tensor], Tensor], batch: Tensor) -> Callable[[], list[Tensor]]:
        """Begin `work` on tiles of `batch` (B, ...), B > 0; return a function that waits for the results."""
        return self.launch_all(work, torch.split(batch, TILE))

    def launch_all(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Callable[[], list[Result]]:
        """Begin `work` on items, one thread each; return a function that waits for the ordered results."""
        futures = [self._pool.submit(work, item) for item in items]
        return lambda: [future.result() for future in futures]
