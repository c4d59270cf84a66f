"""Read jobs in order in threads or processes, a bounded number ahead."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cckt.cache_builder.base.errors import UserError

J = TypeVar("J")
R = TypeVar("R")


@contextlib.contextmanager
def reading_pool(workers: int, processes: bool) -> Iterator[Executor | None]:
    """Hold the threads or processes that read; None with 0 workers."""
    if workers == 0:
        yield None
        return
    pool: Executor
    if processes:
        context = multiprocessing.get_context("spawn")  # threads and devices do not survive a fork
        pool = ProcessPoolExecutor(workers, context, initializer=follow_parent)
    else:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="cckt-read")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_ahead(
    read: Callable[[J], list[R]],
    jobs: Iterator[J | None],
    workers: int,
    pool: Executor | None,
    rows_of: Callable[[J], int] = lambda job: 0,
    rows: int = 1,
) -> Generator[tuple[J, list[R]], None, None]:
    """Yield (job, result of `read`) in the order of the jobs. pool: of `workers` workers; None: this thread.

    Up to 2 * workers + 1 results wait, and more until their jobs hold `rows` rows (counted by `rows_of`), so
    that the next batch is ready when the mapper needs it. None among the jobs means that there is none at the
    moment: what was read is yielded, and the stream ends if nothing is being read.
    """
    waiting: deque[tuple[J, Future[list[R]]]] = deque()
    ahead = 0
    try:
        while True:
            while pool is None or len(waiting) < 2 * workers + 1 or ahead < rows:
                upcoming = next(jobs, None)
                if upcoming is None:
                    break
                if pool is None:
                    yield upcoming, read(upcoming)
                    continue
                ahead += rows_of(upcoming)
                waiting.append((upcoming, pool.submit(read, upcoming)))
            if not waiting:
                return
            job, future = waiting.popleft()
            ahead -= rows_of(job)
            yield job, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A reading process died, most likely because memory ran out: run the same command again with "
            "fewer --workers; what is finished is kept."
        ) from error


def follow_parent() -> None:
    """Leave Ctrl-C to the parent process, and exit when the parent ends for any reason.

    The initializer of every pool of processes: idle workers of a killed parent would live on forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="cckt-watch", daemon=True).start()
