"""Read tables of (id, vector) rows that were made elsewhere: Parquet, or .npy vectors with .npy ids."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.disk_faults import raise_unless_missing
from cckt.cache_builder.base.errors import UserError, counted, listed
from cckt.cache_builder.base.untrusted.npy_files import read_npy
from cckt.cache_builder.base.untrusted.regular_files import require_regular
from cckt.cache_builder.store.exchange.parquet_out import parquet_faults, require_pyarrow

BLOCK = 4096
"""Rows that are read at a time."""
WIDEST = 1 << 16
"""Most values of a vector; more would be no embedding."""


class VectorTable:
    """N rows of (id, vector), read in blocks. The ids are in memory, the vectors are not.

    Attributes: `ids` (N,) int64; `width`; `path`.
    """

    def __init__(
        self, path: Path, ids: Path | None, id_name: str, vector_name: str = "vector", most: int | None = None
    ) -> None:
        """path: .parquet with the columns `id_name` and `vector_name`, or .npy (N, D) with `ids` (N,) .npy.

        most: the number of ids that exist, so that a small file which decodes into many rows does not fill
        the memory. Rows whose vector is null, in .npy zero, are left out: exports write rows without a value
        so. Raises UserError if a file cannot be read, has another form or more rows than `most`.
        """
        self.path, self._vector_name = path, vector_name
        if path.suffix == ".npy":
            if ids is None:
                raise UserError(f"{path} holds vectors only; add --ids FILE.npy with the id of each row.")
            self._array: Any = _npy(path)
            found = _npy(ids)
            if self._array.ndim != 2 or self._array.dtype.kind != "f":
                raise UserError(
                    f"{path} holds {self._array.dtype} of shape {self._array.shape}, expected (N, D) floats; "
                    "save one vector in each row."
                )
            if found.shape != self._array.shape[:1] or found.dtype.kind not in "iu":
                raise UserError(
                    f"{ids} holds {found.dtype} of shape {found.shape}, expected {len(self._array)} "
                    f"integers, one for each row of {path}; save the ids in the order of the vectors."
                )
            if len(found) and int(found.max()) > np.iinfo(np.int64).max:
                raise UserError(f"{ids} holds {int(found.max())}, expected ids below 2^63; check the file.")
            self.width = int(self._array.shape[1])
            self._whole = self._rows_with_values()
            self.ids = np.asarray(found, np.int64)[self._whole]
        elif path.suffix == ".parquet":
            if ids is not None:
                raise UserError(f"--ids applies only to .npy tables; {path} holds its ids, remove --ids.")
            self._array = None
            self._open_parquet(id_name, most)
        else:
            raise UserError(f"{path} is neither .parquet nor .npy; save the table as one of them.")

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (position of the first row, vectors (n, width) float32) in the order of `ids`."""
        if self._array is not None:
            at = 0
            for lo in range(0, len(self._array), BLOCK):
                block = np.asarray(self._array[lo : lo + BLOCK], np.float32)[self._whole[lo : lo + BLOCK]]
                yield at, block
                at += len(block)
            return
        at = 0
        with self._parquet() as file:
            for batch in file.iter_batches(BLOCK, columns=[self._vector_name]):
                vectors = batch.column(0).drop_null()
                self._require_lengths(vectors)
                flat = vectors.flatten().to_numpy(zero_copy_only=False)
                yield at, np.asarray(flat, np.float32).reshape(len(vectors), self.width)
                at += len(vectors)

    def _rows_with_values(self) -> NDArray[np.bool_]:
        """Return (N,) which rows of the array are not zero throughout; NaN is a value."""
        parts = [self._array[lo : lo + BLOCK].any(axis=1) for lo in range(0, len(self._array), BLOCK)]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    @contextlib.contextmanager
    def _parquet(self) -> Iterator[Any]:
        """Open the file for the block; UserError if it cannot be read, wherever in the file that shows."""
        require_pyarrow()
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(require_regular(self.path), pre_buffer=False) as file:
                yield file
        except parquet_faults() as error:
            raise_unless_missing(error, self.path)
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
            raise UserError(f"{self.path} cannot be read as Parquet ({reason}); check the file.") from error

    def _open_parquet(self, id_name: str, most: int | None) -> None:
        pyarrow = require_pyarrow()
        with self._parquet() as file:
            schema = file.schema_arrow
            for name in (id_name, self._vector_name):
                if name not in schema.names:
                    raise UserError(
                        f"{self.path} has the columns {listed(schema.names, 8)}, expected {name}; "
                        "rename a column, or name the right ones with --id and --vector."
                    )
            kind = schema.field(self._vector_name).type
            lists = (pyarrow.FixedSizeListType, pyarrow.ListType, pyarrow.LargeListType)
            if not isinstance(kind, lists) or not pyarrow.types.is_floating(kind.value_type):
                raise UserError(
                    f"{self.path}: its column {self._vector_name} holds {kind}, expected lists of "
                    "floats; name the right one with --vector."
                )
            self._require_width(getattr(kind, "list_size", 1))
            if not pyarrow.types.is_integer(schema.field(id_name).type):
                raise UserError(
                    f"{self.path}: its column {id_name} holds {schema.field(id_name).type}, expected "
                    "integers; name the right one with --id."
                )
            self._require_narrow(file.metadata)
            width, kept, rows = 0, [], 0
            for batch in file.iter_batches(BLOCK, columns=[id_name, self._vector_name]):
                numbers, vectors = batch.column(id_name), batch.column(self._vector_name)
                if numbers.null_count:
                    raise UserError(
                        f"{self.path}: its column {id_name} lacks the id of a row, expected one in each; "
                        "add the ids, or remove these rows."
                    )
                whole = vectors.is_valid().to_numpy(zero_copy_only=False)
                kept.append(numbers.cast(pyarrow.int64()).to_numpy(zero_copy_only=False)[whole])
                rows += len(kept[-1])
                if most is not None and rows > most:
                    raise UserError(
                        f"{self.path} holds more than {counted(most, 'vector')}, but only "
                        f"{counted(most, 'row has', 'rows have')} an id here, and each may be listed once; "
                        f"keep one row for each {id_name}."
                    )
                if not width and whole.any():
                    width = len(vectors.drop_null()[0])
        if not width:
            raise UserError(f"{self.path} holds no vector, expected at least one; check how it was written.")
        self._require_width(width)
        self.ids, self.width = np.concatenate(kept), width

    def _require_width(self, width: int) -> None:
        if width > WIDEST:
            raise UserError(
                f"{self.path}: its vectors hold {width} values, expected at most {WIDEST}; name the right "
                "column with --vector."
            )

    def _require_narrow(self, metadata: Any) -> None:
        """Raise UserError for more values than vectors can hold, before they are decoded.

        A row of zeros takes a few bytes, however long it is.
        """
        for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
            for chunk in (group.column(number) for number in range(group.num_columns)):
                if chunk.path_in_schema.split(".")[0] == self._vector_name and group.num_rows:
                    self._require_width(chunk.num_values // group.num_rows)

    def _require_lengths(self, vectors: Any) -> None:
        """Raise UserError unless each of some lists has `width` values."""
        import pyarrow.compute

        lengths = pyarrow.compute.list_value_length(vectors).to_numpy(zero_copy_only=False)
        if (lengths != self.width).any():
            raise UserError(
                f"{self.path}: its column {self._vector_name} holds vectors of different lengths, "
                f"expected {self.width} values in each; check how it was written."
            )


def _npy(path: Path) -> Any:
    """The array of a .npy file, memory-mapped; no pickled objects."""
    try:
        return read_npy(path, "r")
    except (OSError, ValueError) as error:
        raise_unless_missing(error, path)
        raise UserError(f"{path} cannot be read as .npy ({error}); save it with numpy.save.") from error
