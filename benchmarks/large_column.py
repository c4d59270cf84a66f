"""Write, verify, open and read a large column in little memory.

Claim: peak memory stays under 1000 MB for a column of 1,000,000 x 768 float16 (1.5 GB).
Peer: none.

    python benchmarks/large_column.py [--rows 1000000] [--width 768] [--resident-mb 512] [--folder DIR]

Needs 1.6 GB of disk space in --folder. Prints one JSON line:

    write_s, verify_s, open_s   seconds to write and finish, to verify every byte, and to open
    read_s                      seconds for 1,000 reads of 65 random rows
    peak_mb                     peak resident memory of the process; reading keeps at most --resident-mb
                                mapped (default of a reader: an eighth of the memory, shared by all readers)
    column_mb, rows, width, chunks, ok   size, chunk files, and whether verification found no fault
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from cckt.cache_builder.store import ColumnSpec, open_column, open_writer, verify_column


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--resident-mb", type=int, default=512)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(measure(Path(folder), options.rows, options.width, options.resident_mb << 20)))


def measure(folder: Path, rows: int, width: int, resident: int) -> dict[str, float | int | bool]:
    """Write, verify, open and read a column; return the figures. resident: bound on mapped bytes."""
    random = np.random.default_rng(0)
    spec = ColumnSpec("crops", "boxes", rows, width, has_valid=True, index_digest="sha256:none")
    began = time.perf_counter()
    writer = open_writer(folder, spec)
    for chunk in range(writer.n_chunks):
        lo, hi = writer.bounds(chunk)
        values = random.standard_normal((hi - lo, width), np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        writer.write(chunk, values, random.random(hi - lo) < 0.95)
    writer.finish()
    written = time.perf_counter()
    report = verify_column(folder, "crops", table_rows=rows)
    verified = time.perf_counter()
    column = open_column(folder, "crops", index_digest="sha256:none", resident=resident)
    opened = time.perf_counter()
    for _ in range(1000):
        column.take(random.integers(0, rows, 65))
    read = time.perf_counter()
    return {
        "rows": rows,
        "width": width,
        "chunks": spec.n_chunks,
        "column_mb": round(rows * width * 2 / 1e6, 1),
        "write_s": round(written - began, 2),
        "verify_s": round(verified - written, 2),
        "open_s": round(opened - verified, 4),
        "read_s": round(read - opened, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "ok": report.ok,
    }


if __name__ == "__main__":
    main()
