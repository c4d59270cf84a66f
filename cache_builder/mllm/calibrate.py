"""Calibrate yes/no answers: fit a temperature and a bias on base concepts (docs/method/cckt_det.md, eq. 31).

Platt scaling (Platt 1999): p = sigma(z / T + b), z = log P(yes) - log P(no), with the T > 0 and b of the
highest likelihood of the annotated presence. Neither questions nor boxes of novel concepts take part.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.logistic import fit_logistic, rounded
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.mllm.questions import Questions
from cckt.cache_builder.mllm.scorer import Scorer, sigmoid
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.presence import known_pairs, oracle_presence

PHOTOS = 256
"""Images of the training index that are scored: tens of thousands of answers for two parameters."""


@dataclass(frozen=True)
class Calibration:
    """p = sigma(z / temperature + bias), fitted on `pairs` answers about `photos` images (eq. 31)."""

    temperature: float
    bias: float
    photos: int
    pairs: int

    def __call__(self, logit: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return float32 probabilities of logits z of any shape."""
        return sigmoid(np.asarray(logit, np.float64) / self.temperature + self.bias)

    def recipe(self) -> dict[str, Any]:
        """Return the calibration as a column's recipe holds it."""
        return asdict(self)

    def summary(self) -> str:
        """Return the calibration as text."""
        return (
            f"calibrated on {counted(self.pairs, 'answer')} about base concepts in "
            f"{counted(self.photos, 'photo')}: temperature "
            f"{self.temperature:.3g}, bias {self.bias:+.3g}"
        )


def fit_calibration(
    data: Path, scorer: Scorer, prompt: str, *, photos: int = PHOTOS, progress: Progress
) -> Calibration:
    """Score the base concepts of the training data set `data` and fit a calibration to the answers.

    prompt: as for the column. photos: number of images, spread evenly over the index. Pairs
    whose truth is unknown (LVIS, crowds) are ignored. Raises UserError where the index has no base
    concept, no photo can be read, all pairs have one truth, or yes is more likely for absent concepts.
    """
    index = open_index(data)
    base = index.concepts.rows("base")
    if not len(base):
        raise UserError(f"--calibrate {data}: its index has no base concept; name a training data set.")
    rows = sorted({int(row) for row in np.linspace(0, len(index) - 1, min(photos, len(index)))})
    check_photos(index, np.array(rows))
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
        scores = scorer.score(questions.for_image(photo))
        logits.append(scores.logit[known[row]])
        truth.append(presence[row][known[row]])
    progress.finish()
    z, y = np.concatenate(logits).astype(np.float64), np.concatenate(truth)
    if y.all() or not y.any():
        raise UserError(
            f"--calibrate {data}: every base concept or none is in {counted(read, 'photo')} of it, so "
            "there is "
            "nothing to fit; name a training data set with boxes of several base concepts."
        )
    temperature, bias = fit(z, y)
    if temperature <= 0:
        raise UserError(
            f"--calibrate {data}: the more likely {scorer.mllm.name} finds yes, the more often the "
            "concept is absent; choose another model or --mllm-prompt."
        )
    return Calibration(rounded(temperature), rounded(bias), read, len(z))


def base_truth(index: Index, base: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (I, B) bool presence of the concept rows `base` (B,), and (I, B) bool whether it is known."""
    presence = oracle_presence(index)
    known = known_pairs(index)
    return presence[:, base], (np.ones_like(presence) if known is None else known)[:, base]


def fit(logit: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the (T, b) that maximise the likelihood of `truth` (n,) under sigma(z / T + b).

    logit: (n,) z. T is negative where yes is more likely for absent concepts, infinite where the answers do
    not depend on the truth.
    """
    slope, bias = fit_logistic(logit, truth, (0.0, float(np.log(truth.mean() / (1 - truth.mean())))))
    return (1 / slope if slope else float("inf")), bias
