"""Write a column as .npy files: the vectors, the flags and the ids, and a card that vouches for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.atomic_files import whole_files
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import json_object, require_own_folder
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.exchange.parquet_out import Beside
from cckt.cache_builder.store.reader import Column

MADE = "a column exported by cckt"


def write_npy(column: Column, path: Path, beside: Beside, progress: Progress | None = None) -> list[Path]:
    """Write a column to `path` (NAME.npy), in the memory of one chunk; return the files.

    NAME.npy is (rows, width) in the column's dtype, zeros where a row has no value; NAME.valid.npy its flags,
    (rows,) bool; NAME.KEY.npy the numbers of `beside`, such as NAME.annotation_id.npy. Strings are left out.
    NAME.npy.json is the card: the names of these files, and the manifest of the column. All files appear when
    they are complete.

    Raises UserError if one of the files exists and is not of an export of this column, or cannot be written.
    """
    progress = progress or Silent()
    spec = column.manifest.spec
    _, dtype = spec.arrays["values"]
    numbers = [name for name, values in beside(0, 0).items() if isinstance(values, np.ndarray)]
    files = {"vector": path}
    files |= {name: path.with_name(f"{path.stem}.{name}.npy") for name in ("valid", *numbers)}
    card = card_path(path)
    names = [file.name for file in files.values()]
    require_own_folder(path.parent, card.name, lambda path: _is_card(path, spec.name), names, MADE)
    manifest = {**column.manifest.fields(), "digest": column.manifest.digest}
    about = {"cckt": "column", "column": spec.name, "files": names, "manifest": manifest}
    progress.start(f"export {spec.name}", spec.rows, "rows")
    try:
        # The card appears first: it vouches for the others if a kill comes between them.
        with whole_files(card, *files.values()) as (card_file, *opened):
            card_file.write((json.dumps(about, indent=1) + "\n").encode())
            held = dict(zip(files, opened, strict=True))
            for chunk in range(max(1, spec.n_chunks)):
                lo, hi = spec.bounds(chunk) if spec.n_chunks else (0, 0)
                further = {name: values for name, values in beside(lo, hi).items() if name in numbers}
                parts = {
                    "vector": column.slice(lo, hi).astype(dtype, copy=False),
                    "valid": column.valid(np.arange(lo, hi)),
                    **further,
                }
                for name, values in parts.items():
                    if not chunk:
                        _write_header(held[name], (spec.rows, *values.shape[1:]), values.dtype)
                    held[name].write(np.ascontiguousarray(values).data)
                progress.advance(hi - lo)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); free space or give another --out."
        ) from error
    progress.finish()
    return [*files.values(), card]


def card_path(path: Path) -> Path:
    """Return the path of the card next to NAME.npy."""
    return path.with_name(f"{path.name}.json")


def _is_card(path: Path, column: str) -> bool:
    """Whether a file is the card of an export of a column."""
    found = json_object(path)
    return found.get("cckt") == "column" and found.get("column") == column


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
