"""Random rows of a column against zarr's own indexing and one numpy memmap of the same bytes.

    python benchmarks/read_rows.py [--rows 100000] [--width 768] [--resident-mb 512] [--folder DIR]
    python benchmarks/read_rows.py --rows 1000000 --reads 5000      (1.5 GB, twice; above what stays resident)

A training step with columns against one with random tensors is column_step.py's.

Prints one JSON line. A read is `--take` (65: one positive a class) random rows; times are medians in
milliseconds, of one thread:

    column_ms, zarr_ms, memmap_ms      one read; every file is in the page cache
    zarr_over_column                   wanted: at least 100
    column_over_memmap                 wanted: at most 3
    column_cold_ms                     first read of a fresh reader: opens the manifest, maps what it touches
    resident_mb, resident_bound_mb     largest growth of this process's file-backed memory over `--reads`
                                       reads; and the bound on it for a column that is larger
    column_mb                          bytes of the column
    tensor_ms, random_tensor_ms        as a step sees it: take + torch.from_numpy + float, or torch.randn
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zarr

from cckt.cache_builder.store import ColumnSpec, open_column, open_writer
from cckt.cache_builder.store.places.mapped import resident_bound

ROUNDS = 4


def median_ms(call: Callable[[], object], times: int) -> float:
    """Median milliseconds of a call."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def file_backed_mb() -> float:
    """Resident file-backed memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--take", type=int, default=65)
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--resident-mb", type=int, help="Pages that a reader keeps; default its own.")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        print(json.dumps(measure(Path(folder), given)))


def measure(folder: Path, given: argparse.Namespace) -> dict[str, float | int]:
    """Write a column, then read it in every way."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    spec = ColumnSpec("crops", "boxes", given.rows, given.width, has_valid=True, index_digest="sha256:none")
    writer = open_writer(folder, spec)
    plain = np.memmap(folder / "plain.bin", np.float16, "w+", shape=(given.rows, given.width))
    for chunk in range(writer.n_chunks):
        lo, hi = writer.bounds(chunk)
        values = random.standard_normal((hi - lo, given.width), np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        writer.write(chunk, values)
        plain[lo:hi] = values
    writer.finish()
    plain.flush()
    del plain
    memmap = np.memmap(folder / "plain.bin", np.float16, "r", shape=(given.rows, given.width))
    array = zarr.open_group(folder / "crops", mode="r")["values"]

    def rows() -> np.ndarray:
        return random.integers(0, given.rows, given.take)

    began = time.perf_counter()
    bound = None if given.resident_mb is None else given.resident_mb << 20
    column = open_column(folder, "crops", resident=bound)
    column.take(rows())
    cold = (time.perf_counter() - began) * 1000
    some = rows()
    assert np.array_equal(column.take(some), memmap[some])
    assert np.array_equal(array.get_orthogonal_selection((some, slice(None))), memmap[some])
    del memmap
    draws = iter([rows() for _ in range(5 * given.reads)])
    columns, memmaps, resident = [], [], 0.0
    for _ in range(ROUNDS):  # in turns, so that a busy machine slows both alike
        before = file_backed_mb()
        for _ in range(20):
            columns.append(median_ms(lambda: column.take(next(draws)), given.reads // 20 // ROUNDS))
            resident = max(resident, file_backed_mb() - before)
        memmap = np.memmap(folder / "plain.bin", np.float16, "r", shape=(given.rows, given.width))
        memmaps += [
            median_ms(lambda m=memmap: m[next(draws)], given.reads // 20 // ROUNDS)  # type: ignore[misc]
            for _ in range(20)
        ]
        del memmap  # its pages count as this process's, and the column looks at those
    column_ms, memmap_ms = statistics.median(columns), statistics.median(memmaps)
    zarr_ms = median_ms(lambda: array.get_orthogonal_selection((next(draws), slice(None))), 7)
    step = median_ms(lambda: torch.from_numpy(column.take(next(draws))).float(), given.reads)
    noise = median_ms(lambda: torch.randn(given.take, given.width), given.reads)
    return {
        "rows": given.rows,
        "width": given.width,
        "take": given.take,
        "column_ms": round(column_ms, 4),
        "memmap_ms": round(memmap_ms, 4),
        "zarr_ms": round(zarr_ms, 2),
        "zarr_over_column": round(zarr_ms / column_ms, 1),
        "column_over_memmap": round(column_ms / memmap_ms, 2),
        "column_cold_ms": round(cold, 2),
        "resident_mb": round(resident, 1),
        "resident_bound_mb": round((resident_bound() if bound is None else bound) / 1e6, 1),
        "column_mb": round(given.rows * given.width * 2 / 1e6, 1),
        "tensor_ms": round(step, 4),
        "random_tensor_ms": round(noise, 4),
    }


if __name__ == "__main__":
    main()
