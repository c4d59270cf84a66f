"""Is it real? Intervals and paired comparisons by drawing photos again, with replacement.

A drawn photo brings its detections and its boxes as often as it was drawn, so a resample is the same records
under whole-number weights: nothing is matched twice, and only the cumulated sums at true positives are made
anew.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cckt.cache_builder.base.atomic_files import plain
from cckt.detector.evaluation.engines import IOU_THRESHOLDS, RECALLS
from cckt.detector.evaluation.matches import Matches
from cckt.detector.evaluation.truth import Truth

Floats = npt.NDArray[np.float64]

TOGETHER = 256
"""Resamples whose AP is computed at once."""


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval at `level`, in [0, 1]; nan where it is void."""

    value: float
    low: float
    high: float
    level: float

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        known: dict[str, float | None] = plain(asdict(self))
        return known


@dataclass(frozen=True)
class Comparison:
    """B minus A of one figure over the same resamples.

    p: two-sided, how often the difference has not the observed sign.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    level: float
    p: float

    @property
    def known(self) -> bool:
        """Whether there was anything to compare."""
        return bool(np.isfinite(self.difference))

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference leaves zero out."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**plain(asdict(self)), "differs": self.differs}


def intervals(
    truth: Truth, matches: Matches, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Intervals of the protocol's headline figures, as far as `matches` has their thresholds.

    Percentiles of the draws, moved so that their median stands at the figure: a resample holds fewer
    different photos, so fewer false positives stand between true ones and its AP is a little high, by more
    than its spread where there are few boxes. Within [0, 1].
    """
    observed, drawn = _figures(truth, matches, resamples, seed)
    answer = {}
    for name, values in drawn.items():
        values = _centred(values, observed[name])
        low, high = _percentiles(values.clip(0, 1), 50 * (1 - level), 50 * (1 + level))
        answer[name] = Interval(observed[name], low, high, level)
    return answer


def _centred(values: Floats, observed: float) -> Floats:
    """The finite draws, moved so that their median is the observed value."""
    known = values[np.isfinite(values)]
    centred: Floats = known - np.median(known) + observed if len(known) else known
    return centred


def compare(
    truth: Truth, a: Matches, b: Matches, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Comparison]:
    """Two runs, each resample with the same photos for both, so that what both find hard cancels out."""
    observed_a, drawn_a = _figures(truth, a, resamples, seed)
    observed_b, drawn_b = _figures(truth, b, resamples, seed)
    answer = {}
    for name in drawn_a:
        difference = observed_b[name] - observed_a[name]
        change = _centred(drawn_b[name] - drawn_a[name], difference)
        low, high = _percentiles(change, 50 * (1 - level), 50 * (1 + level))
        # One is added so that no finite number of resamples claims p = 0.
        sides = [int((change <= 0).sum()), int((change >= 0).sum())]
        p = min(1.0, 2 * (min(sides) + 1) / (len(change) + 1)) if len(change) else float("nan")
        answer[name] = Comparison(observed_a[name], observed_b[name], difference, low, high, level, p)
    return answer


def _figures(
    truth: Truth, matches: Matches, resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Observed figures, and (resamples,) of each."""
    photos = len(truth.image_ids)
    weights = np.ones((resamples + 1, photos), np.float64)
    rng = np.random.default_rng(seed)
    for row in range(1, resamples + 1):
        weights[row] = np.bincount(rng.integers(photos, size=photos), minlength=photos) if photos else 0
    table = weighted_table(truth, matches, weights)
    means = {
        name: _row_means(table[_at(matches, name)].mean(0)[:, _of(truth, name)])
        for name in truth.headline
        if _at(matches, name)
    }
    return {name: float(mean[0]) for name, mean in means.items()}, {n: mean[1:] for n, mean in means.items()}


def thresholds_for(truth: Truth) -> tuple[float, ...]:
    """The IoU thresholds to match at so that every headline figure has its interval."""
    whole = any(not re.match(r"ap\d\d", name) for name in truth.headline)
    return tuple(IOU_THRESHOLDS.tolist()) if whole else (0.5,)


def _at(matches: Matches, name: str) -> list[int]:
    """The rows of the thresholds that a figure is a mean over: 0.5 for ap50, all ten for ap; [] if absent."""
    given = re.match(r"ap(\d\d)", name)
    wanted = [int(given[1]) / 100] if given else IOU_THRESHOLDS.tolist()
    rows = [int(np.abs(np.array(matches.thresholds) - one).argmin()) for one in wanted]
    there = all(abs(matches.thresholds[row] - one) < 1e-6 for row, one in zip(rows, wanted, strict=True))
    return rows if there else []


def _of(truth: Truth, name: str) -> npt.NDArray[np.bool_]:
    """(C,) bool: the concepts that a figure is a mean over."""
    tail = name.partition("_")[2]
    if tail in ("base", "novel"):
        return truth.in_split(tail)
    if tail in ("r", "c", "f"):
        return np.array([frequency == tail for frequency in truth.frequencies], bool)
    return np.ones(len(truth.names), bool)


def weighted_ap(truth: Truth, matches: Matches, weights: Floats) -> Floats:
    """(B, C) AP with each photo counted by its weight, mean over the matched thresholds; see
    `weighted_table`."""
    mean: Floats = weighted_table(truth, matches, weights).mean(0)
    return mean


def weighted_table(truth: Truth, matches: Matches, weights: Floats) -> Floats:
    """AP of each threshold and concept with each photo counted by its weight.

    weights: (B, I) at least 0. Returns (T, B, C); nan where the weighted photos hold no box of the concept.
    """
    table = np.full((len(matches.thresholds), len(weights), len(truth.names)), np.nan)
    bounds = np.searchsorted(matches.concepts, np.arange(len(truth.names) + 1))
    order = np.argsort(truth.concepts, kind="stable")
    order = order[~truth.crowd[order]]
    boxes = np.split(
        truth.images[order], np.searchsorted(truth.concepts[order], np.arange(1, len(bounds) - 1))
    )
    right, wrong = matches.right, matches.wrong
    with_boxes = np.flatnonzero([len(photos) > 0 for photos in boxes])
    # A few resamples at a time, a photo's weights side by side: what is cumulated stays in the cache.
    for low in range(0, len(weights), TOGETHER):
        some = slice(low, low + TOGETHER)
        by_photo = np.ascontiguousarray(weights[some].T)
        for concept in with_boxes:
            positives = by_photo[boxes[concept]].sum(0)
            part = slice(bounds[concept], bounds[concept + 1])
            for t in range(len(matches.thresholds)):
                values = _ap(matches.images[part], right[t, part], wrong[t, part], by_photo, positives)
                table[t, some, concept] = np.where(positives > 0, values, np.nan)
    return table


def _ap(
    images: npt.NDArray[np.int64],
    right: npt.NDArray[np.bool_],
    wrong: npt.NDArray[np.bool_],
    weights: Floats,
    positives: Floats,
) -> Floats:
    """(B,) 101-point AP. Precision peaks at true positives, so the curve is only needed there.

    weights: (I, B); positives: (B,), boxes under these weights.
    """
    hits = images[right]
    if not len(hits):
        return np.zeros(weights.shape[1])
    right_sum = np.cumsum(weights[hits], 0)
    # False positives before each hit: counted by photo once, then weighted. Those after the last count for
    # nothing.
    before, photos = np.cumsum(right)[wrong], images[wrong]
    some = np.searchsorted(before, len(hits))
    shape = (len(hits), len(weights))
    counts = sparse.csr_matrix((np.ones(some), (before[:some], photos[:some])), shape=shape)
    wrong_sum = np.cumsum(counts @ weights, 0)
    precision = right_sum / (right_sum + wrong_sum + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
    # A hit's precision counts for every recall level that it is the first to reach.
    reached = np.searchsorted(RECALLS, right_sum / np.maximum(positives, 1e-300), side="right")
    levels = np.diff(reached, axis=0, prepend=0)
    value: Floats = (levels * precision).sum(0) / len(RECALLS)
    return value


def _row_means(table: Floats) -> Floats:
    known = np.isfinite(table)
    count = known.sum(1)
    total = np.where(known, table, 0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _percentiles(values: Floats, low: float, high: float) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    ends = np.percentile(values, [low, high])
    return float(ends[0]), float(ends[1])
