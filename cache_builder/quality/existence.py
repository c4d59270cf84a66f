"""Precision, recall, F1 and average precision of concept-existence priors, per split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import LIMIT, RHO
from cckt.cache_builder.presence import present_mask


@dataclass(frozen=True)
class ExistenceMetrics:
    """Priors compared with annotations over the concepts of one split.

    Shares are in [0, 1], NaN where nothing can be measured.
    """

    precision: float
    """Over all (image, concept) pairs together, of the pairs that eq. 7 selects."""
    recall: float
    """Likewise."""
    f1: float
    """Likewise."""
    ap: float
    """Average precision of ranking the images by the prior of a concept; mean over the concepts that are
    present in some image."""
    concepts: int
    """Concepts that have an average precision."""
    pairs: int
    """Annotated (image, concept) pairs."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def existence_report(
    priors: NDArray[np.floating],
    presence: NDArray[np.bool_],
    splits: Mapping[str, NDArray[np.integer]],
    *,
    rho: float = RHO,
    limit: int = LIMIT,
    valid: NDArray[np.bool_] | None = None,
    known: NDArray[np.bool_] | None = None,
) -> dict[str, ExistenceMetrics]:
    """Return metrics of each split, and under "all" of their concepts together.

    priors: (I, C) probabilities.
    presence: (I, C) bool, from `oracle_presence`.
    splits: name -> concept rows. Other concepts are ignored, also by `limit`.
    rho, limit: select the present concepts of an image (docs/method/cckt_det.md, eq. 7).
    valid: (I,) bool, images that count; default all.
    known: (I, C) bool, pairs whose truth is known, from `known_pairs`; None: all. The others are ignored.
    """
    assert priors.shape == presence.shape, f"expected {presence.shape}, found {priors.shape}"
    scored = np.unique(np.concatenate([np.zeros(0, np.int64), *splits.values()]))
    counted = np.ones(priors.shape, bool) if known is None else known.copy()
    if valid is not None:
        counted &= valid[:, None]
    chosen = chosen_pairs(priors, scored, rho, limit)
    return {
        name: _metrics(priors, presence, counted, chosen, rows)
        for name, rows in {**splits, "all": scored}.items()
    }


def chosen_pairs(
    priors: NDArray[np.floating], candidates: NDArray[np.integer], rho: float, limit: int
) -> NDArray[np.bool_]:
    """Return (I, C) bool: present concepts among the concept rows `candidates`, by eq. 7.

    A prior of at least `rho` that is among the `limit` highest of its image. Equal priors are ranked by
    concept row (docs/method/cckt_det.md, eq. 7).
    """
    chosen = np.zeros(priors.shape, bool)
    chosen[:, candidates] = present_mask(priors[:, candidates], rho, limit)
    return chosen


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Return the area under the precision-recall steps of ranking by `scores` (n,), with truth (n,) bool.

    sum_k (R_k - R_(k-1)) P_k. Equal scores form one step, so their order does not matter. NaN without a
    positive.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    recall = hits[ends] / hits[-1]
    precision = hits[ends] / (ends + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def ratio(part: int, whole: int) -> float:
    """Return part / whole, NaN for a whole of 0."""
    return part / whole if whole else float("nan")


def _metrics(
    priors: NDArray[np.floating],
    presence: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
    rows: NDArray[np.integer],
) -> ExistenceMetrics:
    truth, positive, count = presence[:, rows], chosen[:, rows], counted[:, rows]
    hits = int(np.count_nonzero(truth & positive & count))
    present, claimed = int(np.count_nonzero(truth & count)), int(np.count_nonzero(positive & count))
    each = [
        average_precision(priors[counted[:, row], row], presence[counted[:, row], row])
        for row in rows.tolist()
    ]
    measured = [ap for ap in each if not np.isnan(ap)]
    return ExistenceMetrics(
        precision=ratio(hits, claimed),
        recall=ratio(hits, present),
        f1=ratio(2 * hits, claimed + present),
        ap=float(np.mean(measured)) if measured else float("nan"),
        concepts=len(measured),
        pairs=present,
    )
