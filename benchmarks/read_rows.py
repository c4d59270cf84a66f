"""Compare random reads of a column with zarr's indexing and with a numpy memmap.

Claim: at least 100 times as fast as zarr, and at most 3 times as slow as a memmap.
Peers: zarr's orthogonal indexing of the same files; one numpy memmap of the same bytes.

    python benchmarks/read_rows.py [--rows 100000] [--width 768] [--resident-mb 512] [--folder DIR]
    python benchmarks/read_rows.py --rows 1000000 --reads 5000      (1.5 GB twice; more than stays resident)

column_step.py measures a training step. A read here is --take random rows (default 65). Times are medians in
milliseconds, of one thread, with all files in the page cache. Prints one JSON line:

    column_ms, zarr_ms, memmap_ms       one read
    zarr_over_column                    zarr_ms / column_ms
    column_over_memmap                  column_ms / memmap_ms
    column_cold_ms                      first read of a new reader: reads the manifest and maps the files
    resident_mb, resident_bound_mb      largest growth of file-backed memory over --reads reads, and its bound
                                        for a larger column
    column_mb, rows, width, take        size of the column and of a read
    tensor_ms, random_tensor_ms         a read as a float tensor, and torch.randn of the same shape
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
    """Return the median time of a call in milliseconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def file_backed_mb() -> float:
    """Return the resident file-backed memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) / 1024


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--take", type=int, default=65)
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--resident-mb", type=int, help="bound on mapped pages; default that of the reader")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(measure(Path(folder), options)))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float | int]:
    """Write a column, read it in every way, and return the figures."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    spec = ColumnSpec(
        "crops", "boxes", options.rows, options.width, has_valid=True, index_digest="sha256:none"
    )
    writer = open_writer(folder, spec)
    plain = np.memmap(folder / "plain.bin", np.float16, "w+", shape=(options.rows, options.width))
    for chunk in range(writer.n_chunks):
        lo, hi = writer.bounds(chunk)
        values = random.standard_normal((hi - lo, options.width), np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        writer.write(chunk, values)
        plain[lo:hi] = values
    writer.finish()
    plain.flush()
    del plain
    memmap = np.memmap(folder / "plain.bin", np.float16, "r", shape=(options.rows, options.width))
    array = zarr.open_group(folder / "crops", mode="r")["values"]

    def rows() -> np.ndarray:
        return random.integers(0, options.rows, options.take)

    began = time.perf_counter()
    bound = None if options.resident_mb is None else options.resident_mb << 20
    column = open_column(folder, "crops", resident=bound)
    column.take(rows())
    cold = (time.perf_counter() - began) * 1000
    some = rows()
    assert np.array_equal(column.take(some), memmap[some])
    assert np.array_equal(array.get_orthogonal_selection((some, slice(None))), memmap[some])
    del memmap
    draws = iter([rows() for _ in range(5 * options.reads)])
    columns, memmaps, resident = [], [], 0.0
    for _ in range(ROUNDS):  # alternating, so that other load on the machine affects both
        before = file_backed_mb()
        for _ in range(20):
            columns.append(median_ms(lambda: column.take(next(draws)), options.reads // 20 // ROUNDS))
            resident = max(resident, file_backed_mb() - before)
        memmap = np.memmap(folder / "plain.bin", np.float16, "r", shape=(options.rows, options.width))
        memmaps += [
            median_ms(lambda m=memmap: m[next(draws)], options.reads // 20 // ROUNDS)  # type: ignore[misc]
            for _ in range(20)
        ]
        del memmap  # its pages count in the resident memory that the column reads
    column_ms, memmap_ms = statistics.median(columns), statistics.median(memmaps)
    zarr_ms = median_ms(lambda: array.get_orthogonal_selection((next(draws), slice(None))), 7)
    step = median_ms(lambda: torch.from_numpy(column.take(next(draws))).float(), options.reads)
    noise = median_ms(lambda: torch.randn(options.take, options.width), options.reads)
    return {
        "rows": options.rows,
        "width": options.width,
        "take": options.take,
        "column_ms": round(column_ms, 4),
        "memmap_ms": round(memmap_ms, 4),
        "zarr_ms": round(zarr_ms, 2),
        "zarr_over_column": round(zarr_ms / column_ms, 1),
        "column_over_memmap": round(column_ms / memmap_ms, 2),
        "column_cold_ms": round(cold, 2),
        "resident_mb": round(resident, 1),
        "resident_bound_mb": round((resident_bound() if bound is None else bound) / 1e6, 1),
        "column_mb": round(options.rows * options.width * 2 / 1e6, 1),
        "tensor_ms": round(step, 4),
        "random_tensor_ms": round(noise, 4),
    }


if __name__ == "__main__":
    main()
