"""Write a column as one Parquet file: a row group for each chunk, vectors as fixed-size lists."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.atomic_files import whole_files
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import Mark
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.reader import Column

KEY = b"cckt.column"
"""Key of the file's metadata under which the manifest is: recipe, teacher, digests of index and column."""

Beside = Callable[[int, int], dict[str, Any]]
"""Rows [lo, hi) -> further values by column name: arrays (n,) or (n, k), or lists of n strings."""


def require_pyarrow() -> Any:
    """Return the module pyarrow; UserError if it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(
            "Parquet files need the library pyarrow, which is not installed; run pip install 'cckt[parquet]'."
        ) from error
    return pyarrow


def write_parquet(column: Column, path: Path, beside: Beside, progress: Progress | None = None) -> int:
    """Write a column to `path`, in the memory of one chunk; return the bytes of the file.

    Columns of the file: `row`, those of `beside`, `valid`, and `vector`, a fixed-size list of `width` values
    in the column's dtype, null where the row has no value. The file appears when it is complete. Raises
    UserError if it cannot be written.
    """
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    progress = progress or Silent()
    spec = column.manifest.spec
    metadata = {KEY: json.dumps({**column.manifest.fields(), "digest": column.manifest.digest}).encode()}
    progress.start(f"export {spec.name}", spec.rows, "rows")
    try:
        with whole_files(path) as (file,), contextlib.ExitStack() as stack:
            writer = None
            for chunk in range(max(1, spec.n_chunks)):  # an empty column has one empty row group
                lo, hi = spec.bounds(chunk) if spec.n_chunks else (0, 0)
                table = pa.table(_arrays(column, lo, hi, beside)).replace_schema_metadata(metadata)
                if writer is None:
                    writer = stack.enter_context(
                        pq.ParquetWriter(file, table.schema, compression="zstd", use_dictionary=False)
                    )
                writer.write_table(table, row_group_size=max(1, hi - lo))
                progress.advance(hi - lo)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); free space or give another --out."
        ) from error
    progress.finish()
    return path.stat().st_size


def parquet_mark() -> Mark:
    """Return a mark (see `ownership`) of Parquet files that `write_parquet` wrote."""

    def found(path: Path) -> bool:
        import pyarrow.parquet as pq

        try:
            return path.is_file() and KEY in (pq.read_schema(path).metadata or {})
        except parquet_faults():
            return False

    return found


def parquet_faults() -> tuple[type[Exception], ...]:
    """Return what pyarrow raises for a file that it cannot read."""
    return (OSError, ValueError, OverflowError, require_pyarrow().ArrowException)


def _arrays(column: Column, lo: int, hi: int, beside: Beside) -> dict[str, Any]:
    import pyarrow as pa

    valid = column.valid(np.arange(lo, hi))
    values = column.slice(lo, hi)
    further = {
        name: _fixed(array) if isinstance(array, np.ndarray) and array.ndim == 2 else pa.array(array)
        for name, array in beside(lo, hi).items()
    }
    return {
        "row": pa.array(np.arange(lo, hi)),
        **further,
        "valid": pa.array(valid),
        "vector": _fixed(values, valid),
    }


def _fixed(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Any:
    """(n, k) values as an array of fixed-size lists; invalid ones are null."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    missing = None if valid is None or valid.all() else pa.array(~valid)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=missing)
