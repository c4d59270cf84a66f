"""Small columns with a deterministic teacher: made here, and as a program that tests may kill."""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnSpec, open_writer

INDEX = "sha256:index"


def crops_spec(rows: int = 100, chunk_rows: int = 16, width: int = 24, **changes: Any) -> ColumnSpec:
    """Return the spec of a column like crops."""
    fields: dict[str, Any] = {
        "name": "crops",
        "table": "boxes",
        "rows": rows,
        "width": width,
        "dtype": "float16",
        "unit": True,
        "has_valid": True,
        "chunk_rows": chunk_rows,
        "index_digest": INDEX,
        "recipe": {"teacher": {"name": "tiny/one", "digest": "sha256:w"}, "crop": "box"},
    }
    return ColumnSpec(**{**fields, **changes})


def four_specs(rows: int = 60, chunk_rows: int = 8) -> list[ColumnSpec]:
    """Return one spec for each shape of column."""
    return [
        crops_spec(5, 2, name="text", table="concepts", dtype="float32", has_valid=False),
        crops_spec(rows, chunk_rows),
        crops_spec(rows // 2, chunk_rows, name="images", table="images"),
        crops_spec(
            rows // 2,
            chunk_rows,
            name="priors/clip",
            table="images x concepts",
            dtype="float32",
            unit=False,
            has_valid=False,
        ),
    ]


def row_of(spec: ColumnSpec, row: int) -> np.ndarray:
    """Return the value of a row, the same for every maker: (width,) float32."""
    made = np.random.default_rng([row, spec.width]).normal(size=spec.width).astype(np.float32)
    return made / np.linalg.norm(made) if spec.unit else np.abs(made)


def is_bad(spec: ColumnSpec, row: int) -> bool:
    """Return whether a row has no value: every seventh one of a column with flags."""
    return spec.has_valid and row % 7 == 3


def make(
    data: Path,
    spec: ColumnSpec,
    *,
    delay: float = 0.0,
    rows_read: list[int] | None = None,
    batches: list[list[int]] | None = None,
    overwrite: bool = False,
    **options: Any,
):
    """Make the column, or resume it, and return the report."""

    def read(lo: int, hi: int) -> list[Item]:
        if rows_read is not None:
            rows_read.extend(range(lo, hi))
        return [
            Item(row, None, f"bad photo {row // 10}") if is_bad(spec, row) else Item(row, row)
            for row in range(lo, hi)
        ]

    def embed(rows: list[int]) -> np.ndarray:
        if batches is not None:
            batches.append(list(rows))
        if delay:
            time.sleep(delay)
        return np.stack([row_of(spec, row) for row in rows])

    options = {
        "batch": 5,
        "workers": 0,
        "spans": lambda lo, hi: [(k, min(k + 6, hi)) for k in range(lo, hi, 6)],
        **options,
    }
    return run_chunks(open_writer(data, spec, overwrite=overwrite), read, embed, **options)


def tree(folder: Path) -> dict[str, str]:
    """Return every file under a folder with the digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Recorder:
    """A `Progress` that keeps the calls it gets."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.done = 0

    def start(self, label, total, unit):
        self.calls.append(("start", label, total, unit))

    def advance(self, n=1, **figures):
        self.done += n

    def note(self, message):
        self.calls.append(("note", message))

    def finish(self):
        self.calls.append(("finish",))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--part", type=lambda text: tuple(map(int, text.split("/"))))
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    print("ready", flush=True)  # noqa: T201
    for spec in four_specs():
        make(given.data, spec, delay=given.delay, part=given.part, workers=given.workers)
    print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
