"""One of three makers of a column is ten times slower: seconds until the column is done, against the ideal.

The makers are processes that share a folder, and claim chunks as they go. The mapper waits, as for a device,
so that the figure depends little on how busy the machine is. The ideal is the number of chunks over the sum
of the three rates. With --exact every maker makes a fixed third instead. Prints one JSON line.

    python benchmarks/dynamic_shares.py [--chunks 63] [--seconds 1.0] [--slow 10] [--repeats 3] [--exact]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from cckt.cache_builder.runner import ExactPart, Item, run_chunks
from cckt.cache_builder.store import ColumnSpec, open_column, open_writer

ROWS = 16
"""Rows of a chunk."""


def spec_of(chunks: int) -> ColumnSpec:
    """Return a column of small rows."""
    return ColumnSpec(
        name="crops",
        table="boxes",
        rows=chunks * ROWS,
        width=8,
        dtype="float16",
        unit=False,
        has_valid=True,
        chunk_rows=ROWS,
        index_digest="sha256:benchmark",
        recipe={"teacher": None},
    )


def maker(data: Path, chunks: int, seconds: float, part: tuple[int, int], barrier: Barrier) -> None:
    """Make the column together with the other makers; a chunk takes `seconds`."""

    def read(lo: int, hi: int) -> Iterable[Item]:
        return [Item(row, row) for row in range(lo, hi)]

    def embed(rows: list[int]) -> np.ndarray:
        time.sleep(seconds)
        return np.repeat(np.array(rows, np.float32)[:, None], 8, axis=1)

    writer = open_writer(data, spec_of(chunks))
    barrier.wait()
    run_chunks(writer, read, embed, batch=ROWS, workers=1, part=part)


def measure(chunks: int, seconds: list[float], exact: bool) -> tuple[float, dict[str, str]]:
    """Return the seconds until all makers have returned, and the column's digest."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(seconds) + 1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        makers = [
            context.Process(
                target=maker,
                args=(data, chunks, one, (ExactPart if exact else tuple)((at, len(seconds))), barrier),
            )
            for at, one in enumerate(seconds)
        ]
        for process in makers:
            process.start()
        barrier.wait()
        began = time.perf_counter()
        done = 0.0
        while not done:  # the column is done when its manifest says so, not when the slowest maker returns
            time.sleep(0.02)
            if b'"finished": true' in (data / "crops/zarr.json").read_bytes():
                done = time.perf_counter() - began
        for process in makers:
            process.join()
        return done, {"digest": open_column(data, "crops").manifest.digest}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chunks", type=int, default=63)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--slow", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--exact", action="store_true")
    given = parser.parse_args()
    seconds = [given.seconds, given.seconds, given.seconds * given.slow]
    ideal = given.chunks / sum(1 / one for one in seconds)
    runs = [measure(given.chunks, seconds, given.exact) for _ in range(given.repeats)]
    alone = measure(given.chunks, [0.0], False)[1]
    print(
        json.dumps(
            {
                "benchmark": "dynamic_shares",
                "exact": given.exact,
                "chunks": given.chunks,
                "ideal_seconds": round(ideal, 2),
                "seconds": [round(one, 2) for one, _ in runs],
                "of_ideal": round(statistics.median(one for one, _ in runs) / ideal, 3),
                "worst_of_ideal": round(max(one for one, _ in runs) / ideal, 3),
                "same_bytes": all(digest == alone for _, digest in runs),
            }
        )
    )


if __name__ == "__main__":
    main()
