"""The arrays of one chunk: rows in their dtype, flags of the valid rows, zeros elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store.format.spec import ColumnSpec

UNIT_TOLERANCE = {"float16": 2e-3, "float32": 1e-4}
"""Largest deviation of a stored row's length from 1: the dtype's rounding and a margin."""

NOT_FINITE = "the values are not finite"
"""Reason of a row that was made invalid because it holds NaN or infinity."""


def chunk_arrays(
    spec: ColumnSpec, chunk: int, values: NDArray[Any], valid: NDArray[Any] | None, reasons: dict[int, str]
) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the arrays of a chunk by name, padded to its full size, and the number of its invalid rows.

    values: (rows, width); valid: (rows,) or None for all; reasons: row of the column -> reason, to which
    non-finite rows are added. See `ColumnWriter.write`.
    """
    lo, hi = spec.bounds(chunk)
    rows = hi - lo
    assert values.shape == (rows, spec.width), f"expected values {(rows, spec.width)}, found {values.shape}"
    assert valid is None or spec.has_valid, f"column {spec.name} has no valid flags"
    assert valid is None or valid.shape == (rows,), f"expected valid {(rows,)}, found {valid.shape}"
    assert all(lo <= row < hi for row in reasons), f"expected reasons of rows {lo}..{hi - 1}"
    flags = np.ones(rows, bool) if valid is None else valid.astype(bool)
    width, dtype = spec.arrays["values"]
    block = np.zeros((spec.chunk_rows, width), dtype)  # zarr pads the last chunk with its fill value, 0
    with np.errstate(over="ignore", invalid="ignore"):
        block[:rows][flags] = values[flags]
    _reject_not_finite(spec, block[:rows], flags, lo, reasons)
    if spec.unit:
        lengths = np.sqrt(np.einsum("ij,ij->i", block[:rows], block[:rows], dtype=np.float64))[flags]
        worst = float(np.abs(lengths - 1).max(initial=0.0))
        assert worst <= UNIT_TOLERANCE[spec.dtype], (
            f"expected rows of length 1, found a deviation of {worst} in the unit column {spec.name}"
        )
    arrays: dict[str, NDArray[Any]] = {"values": block}
    if spec.has_valid:
        arrays["valid"] = np.zeros(spec.chunk_rows, np.uint8)
        arrays["valid"][:rows] = flags
    return arrays, rows - int(flags.sum())


def _reject_not_finite(
    spec: ColumnSpec, rows: NDArray[Any], flags: NDArray[np.bool_], lo: int, reasons: dict[int, str]
) -> None:
    """Make rows with NaN or infinity (also by overflow of float16) invalid; UserError without flags."""
    bad = flags & ~np.isfinite(rows).all(axis=1)
    if not bad.any():
        return
    first = lo + int(np.flatnonzero(bad)[0])
    if not spec.has_valid:
        raise UserError(
            f"Row {first} of column {spec.name} is not finite in {spec.dtype}: expected finite numbers, "
            "check the teacher's weights and its --precision (fp32 is the safe one), then run the same "
            "command again."
        )
    flags[bad] = False
    rows[bad] = 0
    reasons.update({lo + int(row): NOT_FINITE for row in np.flatnonzero(bad)})
