"""How good existence priors are, before any detector stands on them: precision, recall, F1, AP per split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.index import Index


@dataclass(frozen=True)
class ExistenceFigures:
    """Priors against annotations over the concepts of one split; each in [0, 1], NaN where nothing can be
    measured.

    precision, recall, f1: over all (photo, concept) pairs together, of p >= rho within the photo's `limit`
    likeliest. ap: average precision of ranking the photos by p, a concept at a time, averaged over concepts
    present somewhere. concepts: how many those are. pairs: annotated (photo, concept) pairs.
    """

    precision: float
    recall: float
    f1: float
    ap: float
    concepts: int
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """Plain figures."""
        return asdict(self)


def existence_report(
    priors: NDArray[np.floating],
    presence: NDArray[np.bool_],
    splits: Mapping[str, NDArray[np.integer]],
    *,
    rho: float = 0.70,
    limit: int = 6,
    valid: NDArray[np.bool_] | None = None,
    known: NDArray[np.bool_] | None = None,
) -> dict[str, ExistenceFigures]:
    """Figures for each split, and for "all" of their concepts together.

    priors: (I, C) probabilities. presence: (I, C) bool, from `oracle_presence`. splits: name -> concept
    rows; other concepts do not take part, and the limit is over those that do. valid: (I,) photos to count.
    known: (I, C) pairs of which it is known whether the concept is there (LVIS; see `known_pairs`); the
    others count neither way.
    """
    assert priors.shape == presence.shape, (priors.shape, presence.shape)
    asked = np.unique(np.concatenate([np.zeros(0, np.int64), *splits.values()]))
    counted = np.ones(priors.shape, bool) if known is None else known.copy()
    if valid is not None:
        counted &= valid[:, None]
    chosen = chosen_pairs(priors, asked, rho, limit)
    return {
        name: _figures(priors, presence, counted, chosen, rows)
        for name, rows in {**splits, "all": asked}.items()
    }


def chosen_pairs(
    priors: NDArray[np.floating], asked: NDArray[np.integer], rho: float, limit: int
) -> NDArray[np.bool_]:
    """(I, C) bool: p >= rho and among the photo's `limit` likeliest of the concept rows `asked` (METHOD.md
    section 3).

    Of equals the lower row wins.
    """
    chosen = np.zeros(priors.shape, bool)
    order = asked[np.argsort(-priors[:, asked], axis=1, kind="stable")[:, :limit]]
    np.put_along_axis(chosen, order, np.take_along_axis(priors, order, axis=1) >= rho, axis=1)
    return chosen


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Area under the precision-recall steps of ranking by `scores` (n,), `truth` (n,): sum of (R_k - R_k-1)
    P_k.

    Equal scores are one step, so their order does not matter. NaN without a positive.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    recall = hits[ends] / hits[-1]
    precision = hits[ends] / (ends + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def known_pairs(index: Index, presence: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """(I, C) bool: pairs whose truth the annotations settle; None where they settle all (every format but
    LVIS).

    LVIS is annotated for some concepts a photo: those present, and those verified absent.
    """
    if not len(index.neg_rows):
        return None
    known = presence.copy()
    known[np.repeat(np.arange(len(index)), np.diff(index.neg_offsets)), index.neg_rows] = True
    return known


def _figures(
    priors: NDArray[np.floating],
    presence: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
    rows: NDArray[np.integer],
) -> ExistenceFigures:
    truth, said, count = presence[:, rows], chosen[:, rows], counted[:, rows]
    hits = int(np.count_nonzero(truth & said & count))
    right, claimed = int(np.count_nonzero(truth & count)), int(np.count_nonzero(said & count))
    each = [
        average_precision(priors[counted[:, row], row], presence[counted[:, row], row])
        for row in rows.tolist()
    ]
    measured = [ap for ap in each if not np.isnan(ap)]
    return ExistenceFigures(
        precision=_share(hits, claimed),
        recall=_share(hits, right),
        f1=_share(2 * hits, claimed + right),
        ap=float(np.mean(measured)) if measured else float("nan"),
        concepts=len(measured),
        pairs=right,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
