"""What a column is before a row of it exists, and the digests that identify it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError, listed
from cckt.cache_builder.base.untrusted.text import natural
from cckt.cache_builder.store.places.contract import check_name

SCHEMA = "cckt.column/1"
TABLES = ("concepts", "boxes", "images", "images x concepts", "proposals", "nouns")
OVER_PROPOSALS = ("proposals", "nouns")
"""Tables whose columns belong to a proposals table: its rows, and the nouns of its rows."""
DTYPES = ("float16", "float32", "int32", "uint8")

CHUNK_ROWS = 1024
"""Rows of a chunk, if the maker of a column sets no other number."""

MOST_CHUNKS = 1 << 22
"""Chunks of a column: a bound for what a manifest of unknown origin can make a reader allocate."""


def canonical(value: Any) -> bytes:
    """Return the JSON text of a value that digests are taken of: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


@dataclass(frozen=True)
class ColumnSpec:
    """One column: (rows, width) values over one table, in chunks of `chunk_rows` rows.

    Two specs with equal `identity` are the same column: a writer resumes it. Whatever may change a value
    belongs in `recipe` (plain JSON: teacher name, weight digest, preprocessing, crop rule, templates,
    precision). Whatever may not (workers, device number, dates, paths) stays out of it. `batch` belongs in
    the recipe if a teacher's floats depend on the shape of the batch.
    """

    name: str
    """Folder under the data set's folder: "text", "crops", "images", "priors/clip"."""
    table: str
    """Table of the rows, one of `TABLES`; rows of "images x concepts" are images."""
    rows: int
    """Rows of the table; may be 0."""
    width: int
    """Values of a row: the teacher's D, or C concepts for priors."""
    dtype: str = "float16"
    """One of `DTYPES`, little-endian in the file."""
    unit: bool = True
    """Whether every valid row has Euclidean length 1; checked when written and by verify."""
    has_valid: bool = False
    """Whether each row has a flag (uint8); rows with flag 0 hold zeros."""
    chunk_rows: int = CHUNK_ROWS
    """Rows of a chunk: the unit of work, of resuming, of digests and of mapping."""
    index_digest: str = ""
    """Digest of the index that the table belongs to; of a column over proposals: digest of that table."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How the values were made, in full, as JSON."""

    def __post_init__(self) -> None:
        check_name(self.name)
        assert self.table in TABLES, f"expected a table of {TABLES}, found {self.table!r}"
        assert self.dtype in DTYPES, f"expected a dtype of {DTYPES}, found {self.dtype!r}"
        assert self.rows >= 0, f"expected rows >= 0, found {self.rows}"
        if self.width < 1:
            raise UserError(
                f"Column {self.name} would have rows of {self.width} values: expected at least one, check "
                "whether the vocabulary is empty."
            )
        if self.chunk_rows < 1:
            raise UserError(
                f"chunk_rows is {self.chunk_rows}: expected at least 1, leave it out for the default."
            )
        # Through JSON once, so that tuples and lists have one digest and values outside JSON fail here.
        object.__setattr__(self, "recipe", json.loads(canonical(self.recipe)))
        # A column shorter than a chunk would be padded to a whole chunk in its file.
        object.__setattr__(self, "chunk_rows", min(self.chunk_rows, max(self.rows, 1)))
        if self.n_chunks > MOST_CHUNKS:
            raise UserError(
                f"Column {self.name} would have {self.n_chunks} chunks: expected at most {MOST_CHUNKS}, use "
                "more rows for each chunk."
            )

    @property
    def owner(self) -> str:
        """What `index_digest` is the digest of, for messages."""
        return "proposals table" if self.table in OVER_PROPOSALS else "index"

    @property
    def recipe_digest(self) -> str:
        """Digest of the recipe."""
        return digest_of(canonical(self.recipe))

    @property
    def n_chunks(self) -> int:
        """Number of chunks; 0 for an empty column."""
        return -(-self.rows // self.chunk_rows)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Return rows [lo, hi) of a chunk; the last one may be short."""
        assert 0 <= chunk < self.n_chunks, f"expected a chunk of 0..{self.n_chunks - 1}, found {chunk}"
        lo = chunk * self.chunk_rows
        return lo, min(lo + self.chunk_rows, self.rows)

    @property
    def arrays(self) -> dict[str, tuple[int, np.dtype[Any]]]:
        """Arrays of the column: name -> (values of a row, little-endian dtype)."""
        arrays: dict[str, tuple[int, np.dtype[Any]]] = {
            "values": (self.width, np.dtype(self.dtype).newbyteorder("<"))
        }
        if self.has_valid:
            arrays["valid"] = (1, np.dtype(np.uint8))
        return arrays

    def chunk_bytes(self, array: str) -> int:
        """Return the bytes of every chunk file of an array (the last one is padded with zeros)."""
        width, dtype = self.arrays[array]
        return self.chunk_rows * width * dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        """Return the spec as the manifest holds it."""
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
        """Return the spec of a manifest's fields; KeyError or TypeError if they are of no manifest."""
        return cls(**{key: fields[key] for key in cls.__dataclass_fields__})

    @property
    def identity(self) -> str:
        """Digest of everything above: equal identities are one column."""
        return digest_of(canonical(self.to_json()))


def to_runs(numbers: Iterable[int]) -> str:
    """Return `[7, 0, 1, 2]` as "0-2,7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def run_bounds(text: str) -> list[tuple[int, int]]:
    """Return the runs of `to_runs` as (first, last) pairs, without the numbers between them.

    Raises ValueError unless the text is ascending runs of natural numbers.
    """
    runs = []
    for run in text.split(",") if text else ():
        first, dash, last = run.partition("-")
        bounds = natural(first), natural(last if dash else first)
        if bounds[0] is None or bounds[1] is None:
            raise ValueError(f"{run[:40]!r} is not a run of numbers")
        runs.append((bounds[0], bounds[1]))
    flat = [number for first, last in runs for number in ([first] if first == last else [first, last])]
    if any(one >= other for one, other in itertools.pairwise(flat)):
        raise ValueError(f"{text[:40]!r} is not ascending")
    return runs


def from_runs(text: str) -> Iterator[int]:
    """Yield the numbers of `to_runs`, ascending."""
    for first, last in run_bounds(text):
        yield from range(first, last + 1)


def some_runs(numbers: Iterable[int]) -> str:
    """Return `to_runs` for a message: at most six runs."""
    return shortened(to_runs(numbers))


def shortened(runs: str) -> str:
    """Return the first six runs of a text of `to_runs`, for a message."""
    return listed(runs.split(","), 6)
