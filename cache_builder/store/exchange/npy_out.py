"""Write a column as .npy files: the vectors, the flags, and a JSON file with ids and manifest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.atomic_files import temporary_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.exchange.parquet_out import Beside
from cckt.cache_builder.store.reader import Column


def write_npy(column: Column, path: Path, beside: Beside, progress: Progress | None = None) -> list[Path]:
    """Write a column to `path` (NAME.npy), in the memory of one chunk; return the files.

    NAME.npy is (rows, width) in the column's dtype, zeros where a row has no value; NAME.valid.npy its flags,
    (rows,) bool; NAME.KEY.npy the numbers of `beside`, such as NAME.annotation_id.npy. Strings are left out.
    Raises UserError if a file cannot be written.
    """
    progress = progress or Silent()
    spec = column.manifest.spec
    _, dtype = spec.arrays["values"]
    numbers = [name for name, values in beside(0, 0).items() if isinstance(values, np.ndarray)]
    files = {name: path.with_name(f"{path.stem}.{name}.npy") for name in ("valid", *numbers)}
    files["vector"] = path
    held: dict[str, Any] = {}
    partial = {name: temporary_of(file) for name, file in files.items()}
    progress.start(f"export {spec.name}", spec.rows, "rows")
    try:
        for chunk in range(max(1, spec.n_chunks)):
            lo, hi = spec.bounds(chunk) if spec.n_chunks else (0, 0)
            further = {name: values for name, values in beside(lo, hi).items() if name in numbers}
            parts = {
                "vector": column.slice(lo, hi).astype(dtype, copy=False),
                "valid": column.valid(np.arange(lo, hi)),
                **further,
            }
            for name, values in parts.items():
                if name not in held:
                    held[name] = partial[name].open("wb")
                    _write_header(held[name], (spec.rows, *values.shape[1:]), values.dtype)
                held[name].write(np.ascontiguousarray(values).data)
            progress.advance(hi - lo)
        for name, file in held.items():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(partial[name], files[name])
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); free space or give another --out."
        ) from error
    finally:
        for name, file in held.items():
            file.close()
            partial[name].unlink(missing_ok=True)
    progress.finish()
    return [files[name] for name in held]


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
