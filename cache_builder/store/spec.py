"""What a column is before a single row of it exists, and the digests that name it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cckt.cache_builder.base.errors import UserError

SCHEMA = "cckt.column/1"
TABLES = ("concepts", "boxes", "images", "images x concepts")
DTYPES = ("float16", "float32")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN. Digests are taken over it."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_of(data: bytes | memoryview) -> str:
    """`"sha256:<64 hex digits>"` of bytes (an array's: `array.data`)."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class ColumnSpec:
    """One column: (rows, width) values over one table, cut in chunks of `chunk_rows` rows.

    Two specs with equal `identity` are the same column: a writer resumes it. Anything that may change a
    value belongs in `recipe` (plain JSON: teacher name, weight digest, preprocessing, crop rule, templates,
    precision); anything that may not (batch workers, device number, dates, paths) stays out of it.
    `batch` belongs in the recipe where a teacher's floats depend on the batch's shape.
    """

    name: str
    """Folder under the data set's folder: "text", "crops", "images", "priors/clip"."""
    table: str
    """Whose rows these are: "concepts", "boxes", "images" or "images x concepts" (rows = images)."""
    rows: int
    """Rows of the table; 0 is a column too."""
    width: int
    """Values a row: the teacher's D, or C concepts for priors."""
    dtype: str = "float16"
    """"float16" or "float32", little-endian in the file."""
    unit: bool = True
    """Every valid row has Euclidean length 1; checked when written and by verify."""
    has_valid: bool = False
    """The column carries a flag a row (uint8); invalid rows hold zeros."""
    chunk_rows: int = 1024
    """Rows a chunk: the unit of work, resume, integrity and mapping (at most one chunk is redone after a
    kill).
    """
    index_digest: str = ""
    """Digest of the index whose rows these are."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How the values were made, in full, as JSON."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.split("/")[0] == "index":
            raise UserError(
                f"Column name {self.name!r} cannot be used: expected lower-case words, digits, - and _ "
                "joined by /, and not index; choose another name."
            )
        assert self.table in TABLES, f"table {self.table!r}, expected one of {TABLES}"
        assert self.dtype in DTYPES, f"dtype {self.dtype!r}, expected one of {DTYPES}"
        assert self.rows >= 0, f"rows {self.rows}"
        if self.width < 1:
            raise UserError(
                f"Column {self.name} would have rows of {self.width} values: expected at least one, "
                "look whether the vocabulary is empty."
            )
        if self.chunk_rows < 1:
            raise UserError(
                f"chunk_rows is {self.chunk_rows}: expected at least 1, leave it out for the default."
            )
        # Through JSON once, so that tuples and lists give one digest, and what is no JSON fails here.
        object.__setattr__(self, "recipe", json.loads(canonical(self.recipe)))
        # A column shorter than a chunk would be padded to a whole one in its file.
        object.__setattr__(self, "chunk_rows", min(self.chunk_rows, max(self.rows, 1)))

    @property
    def recipe_digest(self) -> str:
        """Digest of the recipe alone."""
        return digest_of(canonical(self.recipe))

    @property
    def n_chunks(self) -> int:
        """Chunks of the column; 0 for an empty one."""
        return -(-self.rows // self.chunk_rows)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Rows [lo, hi) of a chunk; the last one may be short."""
        assert 0 <= chunk < self.n_chunks, f"chunk {chunk} of {self.n_chunks}"
        lo = chunk * self.chunk_rows
        return lo, min(lo + self.chunk_rows, self.rows)

    @property
    def arrays(self) -> dict[str, tuple[int, np.dtype[Any]]]:
        """Arrays of the column: name -> (values a row, little-endian dtype)."""
        arrays: dict[str, tuple[int, np.dtype[Any]]] = {
            "values": (self.width, np.dtype(self.dtype).newbyteorder("<"))
        }
        if self.has_valid:
            arrays["valid"] = (1, np.dtype(np.uint8))
        return arrays

    def chunk_bytes(self, array: str) -> int:
        """Bytes of every chunk file of an array (the last one is padded with zeros to the same size)."""
        width, dtype = self.arrays[array]
        return self.chunk_rows * width * dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        """The spec as the manifest holds it."""
        return {
            "name": self.name,
            "table": self.table,
            "rows": self.rows,
            "width": self.width,
            "dtype": self.dtype,
            "unit": self.unit,
            "has_valid": self.has_valid,
            "chunk_rows": self.chunk_rows,
            "index_digest": self.index_digest,
            "recipe": dict(self.recipe),
            "recipe_digest": self.recipe_digest,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ColumnSpec:
        """The spec a manifest holds; KeyError or TypeError where the manifest is none."""
        return cls(**{key: fields[key] for key in cls.__dataclass_fields__})

    @property
    def identity(self) -> str:
        """Digest of everything above: equal identities share one column."""
        return digest_of(canonical(self.to_json()))


def chunk_file(array: str, chunk: int) -> str:
    """Name of a chunk file inside the column (zarr v3 "default" chunk keys with separator ".")."""
    return f"values/c.{chunk}.0" if array == "values" else f"{array}/c.{chunk}"


def to_runs(numbers: Iterable[int]) -> str:
    """`[7, 0, 1, 2]` as "0-2,7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def from_runs(text: str) -> Iterator[int]:
    """The numbers of `to_runs`, ascending."""
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        yield from range(int(first), int(last or first) + 1)


def some_runs(numbers: Iterable[int]) -> str:
    """`to_runs` for a message: six runs at most."""
    runs = to_runs(numbers).split(",")
    return ", ".join(runs[:6]) + (", ..." if len(runs) > 6 else "")
