"""Probabilities that mean what they say: a temperature and a bias, fitted on base concepts only.

Platt scaling (Platt 1999): p = sigma(z / T + b), z = log P(yes) - log P(no), with the T > 0 and b that make
annotated presence likeliest. Novel concepts never take part: neither their questions nor their boxes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.mllm.questions import Questions
from cckt.cache_builder.mllm.scorer import Scorer, sigmoid
from cckt.cache_builder.photos import check_folder, load_or_reason
from cckt.cache_builder.presence import oracle_presence
from cckt.cache_builder.quality.existence import known_pairs

PHOTOS = 256
"""Photos of the training index that are asked about; tens of thousands of answers for two numbers."""

_STEPS = 100  # Newton's method needs a handful; halved steps a few more
_RIDGE = 1e-6  # keeps perfectly separable answers from an infinite slope


@dataclass(frozen=True)
class Calibration:
    """p = sigma(z / temperature + bias), fitted over `pairs` answers about `photos` photos."""

    temperature: float
    bias: float
    photos: int
    pairs: int

    def __call__(self, logit: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits z of any shape -> probabilities, float32."""
        return sigmoid(np.asarray(logit, np.float64) / self.temperature + self.bias)

    def recipe(self) -> dict[str, Any]:
        """As a column's recipe holds it."""
        return asdict(self)

    def line(self) -> str:
        """For a person."""
        return (
            f"calibrated on {self.pairs} answers about base concepts in {self.photos} photos: temperature "
            f"{self.temperature:.3g}, bias {self.bias:+.3g}"
        )


def fit_calibration(
    data: Path, scorer: Scorer, prompt: str, *, photos: int = PHOTOS, progress: Progress
) -> Calibration:
    """Ask the scorer's model about the base concepts of the training data set `data` and fit its answers.

    photos: how many are asked about, spread evenly over the index. Crowds count as presence; pairs that the
    annotations leave open (LVIS) do not count. Raises UserError where the index has no base concept, no photo
    can be read, or the answers are all of one kind.
    """
    index = open_index(data)
    check_folder(index)
    base = index.concepts.rows("base")
    if not len(base):
        raise UserError(f"--calibrate {data}: its index has no base concept; name a training data set.")
    rows = sorted({int(row) for row in np.linspace(0, len(index) - 1, min(photos, len(index)))})
    questions = Questions(scorer.mllm, [index.concepts[row].name for row in base.tolist()], prompt)
    logits, truth, read = [], [], 0
    presence, known = base_truth(index, base)
    progress.start("calibrating", len(rows), "photos")
    for row in rows:
        photo = load_or_reason(index, row)
        progress.advance()
        if isinstance(photo, str):
            continue
        read += 1
        scores = scorer.score(questions.about(photo))
        logits.append(scores.logit[known[row]])
        truth.append(presence[row][known[row]])
    progress.finish()
    if not logits:
        raise UserError(f"--calibrate {data}: none of its photos can be read; look at {index.image_root}.")
    z, y = np.concatenate(logits).astype(np.float64), np.concatenate(truth)
    if y.all() or not y.any():
        raise UserError(
            f"--calibrate {data}: its {read} photos show base concepts always or never, so "
            "there is nothing to fit; name a training data set with boxes of several base concepts."
        )
    temperature, bias = fit(z, y)
    if temperature <= 0:
        raise UserError(
            f"--calibrate {data}: the more {scorer.mllm.name} says yes, the less often it is right; choose "
            "another model or --mllm-prompt."
        )
    return Calibration(rounded(temperature), rounded(bias), read, len(z))


def base_truth(index: Index, base: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(I, B) bool presence of the base concepts `base` (B,), and (I, B) bool whether it is known at all."""
    presence = oracle_presence(index)
    known = known_pairs(index, presence)
    return presence[:, base], (np.ones_like(presence) if known is None else known)[:, base]


def fit(logit: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """(T, b) that maximise the likelihood of `truth` (n,) under sigma(z / T + b), z = `logit` (n,).

    A negative T tells that yes is said of what is absent; an infinite one that the answers say nothing.
    """
    features = np.stack([logit, np.ones_like(logit)], axis=1)
    weights = np.array([0.0, np.log(truth.mean() / (1 - truth.mean()))])

    def loss(w: NDArray[np.float64]) -> float:
        x = features @ w
        return float(np.mean(np.logaddexp(0, x) - truth * x) + 0.5 * _RIDGE * w @ w)

    for _ in range(_STEPS):
        p = sigmoid(features @ weights).astype(np.float64)
        gradient = features.T @ (p - truth) / len(truth) + _RIDGE * weights
        hessian = (features * (p * (1 - p))[:, None]).T @ features / len(truth) + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    slope, bias = (float(w) for w in weights)
    return (1 / slope if slope else float("inf")), bias


def rounded(value: float) -> float:
    """Four significant digits: what another machine's rounding does not change."""
    return float(f"{value:.4g}")
