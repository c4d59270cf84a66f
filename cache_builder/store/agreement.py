"""How far two versions of the same rows agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import counted


@dataclass(frozen=True)
class Agreement:
    """Statistics of the cosines of row pairs (1: same direction), and the largest difference of values."""

    rows: int
    minimum: float
    p01: float
    median: float
    mean: float
    largest_difference: float
    worst: int
    """Position of the row with the smallest cosine."""

    def __str__(self) -> str:
        return (
            f"{counted(self.rows, 'row')}: cosine median {self.median:.6f}, mean {self.mean:.6f}, 1% below "
            f"{self.p01:.6f}, least {self.minimum:.6f}; largest difference {self.largest_difference:.2g}"
        )


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the (n,) cosines of rows of a and b (n, width).

    Two zero rows have cosine 1, a zero row and another one 0.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = ~a.any(axis=1) & ~b.any(axis=1)
    found: NDArray[np.float64] = np.einsum("ij,ij->i", a, b) / np.where(lengths > 0, lengths, 1)
    found[same] = 1
    return found


def agreement(a: NDArray[Any], b: NDArray[Any]) -> Agreement:
    """Return the agreement of rows of a and b, both (n, width), n >= 1; a non-finite row has cosine -1."""
    assert a.shape == b.shape, f"expected rows of one shape, found {a.shape} and {b.shape}"
    return summary(cosines(a, b), float(np.nan_to_num(np.abs(a.astype(np.float64) - b), nan=np.inf).max()))


def summary(found: NDArray[np.float64], largest_difference: float) -> Agreement:
    """Return the agreement of (n,) cosines, n >= 1."""
    found = np.nan_to_num(found, nan=-1.0)
    return Agreement(
        rows=len(found),
        minimum=float(found.min()),
        p01=float(np.quantile(found, 0.01)),
        median=float(np.median(found)),
        mean=float(found.mean()),
        largest_difference=largest_difference,
        worst=int(found.argmin()),
    )
