"""A batch on the CPU: cut into tiles that stay near the caches, each computed by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

TILE = 16
"""Pictures a tile: of 8, 16, 32 and 64 the number that shapeworld's ResNet was fastest with, in fp32 and in
bf16; larger ones leave a core's cache."""


class Tiles:
    """`threads` threads that each compute whole tiles with operators of one thread.

    One thread an operator scales worse than one thread a tile: operators end together, and wait for each
    other spinning, which starves the threads that decode. And a tile's floats depend on nothing but the
    tile, so that a column's bytes do not depend on the number of cores.
    """

    def __init__(self, threads: int) -> None:
        assert threads >= 1
        self.threads = threads
        before, begun = torch.get_num_threads(), threading.Barrier(threads + 1)

        def begin() -> None:
            torch.set_num_threads(1)  # of this thread, and of threads yet to come: see below
            torch.get_num_threads()  # a thread takes up the process's number at its first question: ask now
            begun.wait()

        self._pool = ThreadPoolExecutor(threads, "cckt-teacher", initializer=begin)
        for _ in range(threads):
            self._pool.submit(int)
        begun.wait()
        torch.set_num_threads(before)

    def launch(self, work: Callable[[Tensor], Tensor], batch: Tensor) -> Callable[[], list[Tensor]]:
        """Begin `work` on the tiles of `batch` (B, ...), B above 0; what comes back waits for the answers, in
        order.
        """
        futures = [self._pool.submit(work, tile) for tile in torch.split(batch, TILE)]
        return lambda: [future.result() for future in futures]
