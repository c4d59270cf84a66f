"""Guidance of training images: annotated concepts or priors, with optional noise (docs/method/cckt_det.md,
eq. 28)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.presence import Rows
from cckt.detector.config.config import GuidanceConfig


def draw_guidance(
    concepts: NDArray[np.int64], n_concepts: int, options: GuidanceConfig, random: np.random.Generator
) -> Rows:
    """Return the concepts that guide a training image, in the order in which the queries are dealt.

    concepts: base rows in the view, annotated (ascending) or by the priors. Without noise exactly these are
    returned.
    """
    given = disturb_present(concepts, n_concepts, options.drop, options.add, options.none, random)
    return np.sort(given) if options.order == "row" else given


def disturb_present(
    rows: Rows, concepts: int, drop: float, add: float, none: float, random: np.random.Generator
) -> Rows:
    """Return present concepts with errors: guidance noise in training, "corrupted" priors in evaluation (eq.
    28).

    rows: present concepts of one image, out of 0..concepts-1. With probability `none` nothing remains;
    otherwise each row is dropped with probability `drop`, and absent ones are added, `add` of them on average
    (Poisson). The result is shuffled, so that a wrong concept can be at any position.
    """
    if random.random() < none:
        return rows[:0]
    left = rows[random.random(len(rows)) >= drop]
    absent = np.setdiff1d(np.arange(concepts, dtype=np.int64), rows)
    extra = random.choice(absent, size=min(int(random.poisson(add)), len(absent)), replace=False)
    return random.permutation(np.concatenate([left, extra]))
