"""Write a million rows to Parquet and import them again: bits, memory, time.

Claims: same_bits is true; peak_mb, of the process that exports and imports, is below 1000.
Peer: a copy of the column's files, with the same disk.

    python benchmarks/parquet_column.py [--rows 1000000] [--width 512] [--folder PLACE]

Makes an index without photos and a column `crops` of random unit rows in one process, then exports and
imports it in another one. Prints one JSON line:

    same_bits          whether the imported column has the same chunk digests as the exported one
    peak_mb            largest resident memory of the process that exports and imports
    export_seconds, import_seconds, copy_seconds, parquet_mb, column_mb
    duckdb_seconds     mean vector of one concept, by DuckDB from the file, in a third process
    rows, width, cores, load
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cckt.cache_builder.columns.exchange.column_in import import_column
from cckt.cache_builder.columns.exchange.column_out import export_column
from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.store import ColumnName, column_spec, open_column, open_writer

BOXES = 50


def make(data: Path, rows: int, width: int) -> None:
    """Write an index of `rows` boxes, and a column of random unit rows."""
    size = {"width": 200, "height": 200}
    images = [{"id": i, "file_name": f"{i}.jpg", **size} for i in range(-(-rows // BOXES))]
    boxes = [
        {"id": k + 1, "image_id": k // BOXES, "category_id": 1 + k % 80, "bbox": [k % 50, 5, 100, 100]}
        for k in range(rows)
    ]
    categories = [{"id": k + 1, "name": f"concept {k + 1}"} for k in range(80)]
    data.mkdir(parents=True)
    file = data / "coco.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    build_index(file, None, data, "all-base")
    file.unlink()
    index = open_index(data)
    spec = column_spec(
        ColumnName("crops"),
        rows=rows,
        width=width,
        chunk_rows=512,
        index_digest=index.digest,
        recipe={"made by": "a benchmark"},
    )
    writer = open_writer(data, spec)
    for chunk in writer.missing():
        lo, hi = spec.bounds(chunk)
        values = np.random.default_rng(chunk).normal(size=(hi - lo, width)).astype(np.float32)
        writer.write(chunk, values / np.linalg.norm(values, axis=1, keepdims=True))
    writer.finish()


def measure(data: Path) -> None:
    """Export and import the column; print the figures of this process."""
    table = data / "crops.parquet"
    began = time.perf_counter()
    export_column(data, "crops", table)
    exported = time.perf_counter()
    import_column(data, "crops-back", table, made_by="a benchmark")
    done = time.perf_counter()
    one, other = (open_column(data, name).manifest for name in ("crops", "crops-back"))
    figures = {
        "same_bits": one.chunks == other.chunks,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "export_seconds": round(exported - began, 1),
        "import_seconds": round(done - exported, 1),
        "parquet_mb": round(table.stat().st_size / 1e6),
    }
    print(json.dumps(figures))


def query(data: Path) -> None:
    """Print the seconds of DuckDB's mean vector of one concept."""
    import duckdb

    began = time.perf_counter()
    found = duckdb.sql(
        f"""SELECT list(mean ORDER BY place) FROM (SELECT place, avg(value) AS mean FROM (
            SELECT unnest(vector::FLOAT[]) AS value, generate_subscripts(vector, 1) AS place
            FROM '{data / "crops.parquet"}' WHERE concept = 'concept 7') GROUP BY place)"""
    ).fetchall()
    seconds = time.perf_counter() - began
    index, column = open_index(data), open_column(data, "crops")
    expected = column.take(index.boxes_of_concept(6)).astype(np.float64).mean(axis=0)
    assert np.allclose(found[0][0], expected, atol=1e-5), "expected DuckDB's mean to be that of the column"
    print(json.dumps({"duckdb_seconds": round(seconds, 2)}))


def main() -> None:
    """Run the measurement and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--step", choices=("all", "make", "measure", "query"), default="all")
    parser.add_argument("--data", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.step == "make":
        make(arguments.data, arguments.rows, arguments.width)
        return
    if arguments.step != "all":
        {"measure": measure, "query": query}[arguments.step](arguments.data)
        return
    load = os.getloadavg()[0]
    place = Path(tempfile.mkdtemp(prefix="parquet-", dir=arguments.folder))
    data = place / "data"
    sizes = ["--rows", str(arguments.rows), "--width", str(arguments.width), "--data", str(data)]

    def step(name: str) -> str:
        command = [sys.executable, __file__, "--step", name, *sizes]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    try:
        step("make")
        figures = json.loads(step("measure")) | json.loads(step("query"))
        began = time.perf_counter()
        shutil.copytree(data / "crops", place / "copy")
        figures["copy_seconds"] = round(time.perf_counter() - began, 1)
        size = sum(path.stat().st_size for path in (data / "crops").rglob("*") if path.is_file())
        figures |= {"column_mb": round(size / 1e6), "rows": arguments.rows, "width": arguments.width}
        print(json.dumps(figures | {"cores": os.cpu_count(), "load": round(load, 2)}))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
