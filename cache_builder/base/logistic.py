"""Logistic regression on one feature, and the rounding of what it finds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = 100  # Newton's method needs less than ten, and a few more where steps are halved
_RIDGE = 1e-6  # keeps the slope finite where the classes are perfectly separable


def fit_logistic(
    x: NDArray[np.float64], truth: NDArray[np.bool_], start: tuple[float, float] = (0.0, 0.0)
) -> tuple[float, float]:
    """Return slope and bias that maximise the likelihood of `truth` (n,) under sigma(slope * x + bias).

    x: (n,). start: slope and bias to start from. Uses Newton's method with halved steps.
    """
    features = np.stack([x, np.ones_like(x)], axis=1)
    weights = np.array(start)

    def loss(w: NDArray[np.float64]) -> float:
        z = features @ w
        return float(np.mean(np.logaddexp(0, z) - truth * z) + 0.5 * _RIDGE * w @ w)

    for _ in range(_STEPS):
        p = 0.5 * (1 + np.tanh(0.5 * (features @ weights)))
        gradient = features.T @ (p - truth) / len(truth) + _RIDGE * weights
        hessian = (features * (p * (1 - p))[:, None]).T @ features / len(truth) + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def rounded(value: float) -> float:
    """Round to four significant digits, on which machines with different rounding agree."""
    return float(f"{value:.4g}")
