"""Confidence intervals and paired comparisons by bootstrap: images are drawn with replacement.

An image drawn k times counts k times with all its detections and boxes. A resample is therefore the same
matches with integer weights: matching happens once, and only cumulative sums are computed per resample.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.atomic_files import plain
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.detector.evaluation.coco_engines import IOU_THRESHOLDS, RECALLS
from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.match_detections import DetectionMatches

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.integer[Any]]

RESAMPLES_AT_ONCE = 1024
"""Most resamples whose AP is computed at once."""
WEIGHTS_AT_ONCE = 2**22
"""Most weights of the detections of a concept, over resamples, at once; bounds memory."""
MOST_THREADS = 4
"""Concepts that are computed at the same time, at most."""


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval at `level`, in [0, 1]; NaN if the figure cannot be computed."""

    value: float
    low: float
    high: float
    level: float

    def as_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON."""
        known: dict[str, float | None] = plain(asdict(self))
        return known


@dataclass(frozen=True)
class Comparison:
    """The difference B - A of one figure, over the same resamples.

    p: two-sided p-value of the sign of the difference.
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
        """Whether the figure exists for both."""
        return bool(np.isfinite(self.difference))

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**plain(asdict(self)), "differs": self.differs}


def intervals(
    truth: GroundTruth,
    matches: DetectionMatches,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: Progress | None = None,
) -> dict[str, Interval]:
    """Return intervals of the protocol's headline figures whose IoU thresholds `matches` has.

    They are percentiles of the resampled values, shifted so that their median is the figure, and clipped to
    [0, 1]. Without the shift they are too high: a resample has fewer distinct images, so fewer false
    positives rank between true ones; with few boxes this bias exceeds the spread.
    """
    observed, drawn = _figures(truth, matches, resamples, seed, progress)
    answer = {}
    for name, values in drawn.items():
        values = _centred(values, observed[name])
        low, high = _percentiles(values.clip(0, 1), 50 * (1 - level), 50 * (1 + level))
        answer[name] = Interval(observed[name], low, high, level)
    return answer


def _centred(values: Floats, observed: float) -> Floats:
    """Return the finite values, shifted so that their median is the observed value."""
    known = values[np.isfinite(values)]
    centred: Floats = known - np.median(known) + observed if len(known) else known
    return centred


def compare(
    truth: GroundTruth,
    a: DetectionMatches,
    b: DetectionMatches,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: Progress | None = None,
) -> dict[str, Comparison]:
    """Compare two runs on the same resamples, so that the difficulty of the drawn images cancels out."""
    observed_a, drawn_a = _figures(truth, a, resamples, seed, progress)
    observed_b, drawn_b = _figures(truth, b, resamples, seed, progress)
    answer = {}
    for name in drawn_a:
        difference = observed_b[name] - observed_a[name]
        change = _centred(drawn_b[name] - drawn_a[name], difference)
        low, high = _percentiles(change, 50 * (1 - level), 50 * (1 + level))
        # + 1, so that a finite number of resamples never gives p = 0.
        sides = [int((change <= 0).sum()), int((change >= 0).sum())]
        p = min(1.0, 2 * (min(sides) + 1) / (len(change) + 1)) if len(change) else float("nan")
        answer[name] = Comparison(observed_a[name], observed_b[name], difference, low, high, level, p)
    return answer


def _figures(
    truth: GroundTruth,
    matches: DetectionMatches,
    resamples: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Return the observed figures, and (resamples,) resampled values of each."""
    photos = len(truth.image_ids)
    weights = np.ones((resamples + 1, photos), np.float64)
    rng = np.random.default_rng(seed)
    for row in range(1, resamples + 1):
        weights[row] = np.bincount(rng.integers(photos, size=photos), minlength=photos) if photos else 0
    table = weighted_table(truth, matches, weights, progress)
    means = {
        name: _row_means(table[_threshold_rows(matches, name)].mean(0)[:, _concepts_of(truth, name)])
        for name in truth.headline
        if _threshold_rows(matches, name)
    }
    return {name: float(mean[0]) for name, mean in means.items()}, {n: mean[1:] for n, mean in means.items()}


def thresholds_for(truth: GroundTruth) -> tuple[float, ...]:
    """Return the IoU thresholds that the headline figures need."""
    whole = any(not re.match(r"ap\d\d", name) for name in truth.headline)
    return tuple(IOU_THRESHOLDS.tolist()) if whole else (0.5,)


def _threshold_rows(matches: DetectionMatches, name: str) -> list[int]:
    """Rows of the IoU thresholds of a figure: 0.5 for ap50, ten for ap; [] if one is missing."""
    given = re.match(r"ap(\d\d)", name)
    wanted = [int(given[1]) / 100] if given else IOU_THRESHOLDS.tolist()
    rows = [int(np.abs(np.array(matches.thresholds) - one).argmin()) for one in wanted]
    there = all(abs(matches.thresholds[row] - one) < 1e-6 for row, one in zip(rows, wanted, strict=True))
    return rows if there else []


def _concepts_of(truth: GroundTruth, name: str) -> npt.NDArray[np.bool_]:
    """(C,) bool: the concepts that a figure averages over."""
    tail = name.partition("_")[2]
    if tail in ("base", "novel"):
        return truth.in_split(tail)
    if tail in ("r", "c", "f"):
        return np.array([frequency == tail for frequency in truth.frequencies], bool)
    return np.ones(len(truth.names), bool)


def weighted_ap(truth: GroundTruth, matches: DetectionMatches, weights: Floats) -> Floats:
    """Return (B, C) AP of weighted images, mean over the IoU thresholds; see `weighted_table`."""
    mean: Floats = weighted_table(truth, matches, weights).mean(0)
    return mean


def weighted_table(
    truth: GroundTruth, matches: DetectionMatches, weights: Floats, progress: Progress | None = None
) -> Floats:
    """Return (T, B, C) AP of each threshold, weighting and concept.

    weights: (B, I), whole numbers of at least 0, how often each image counts. NaN if the images hold no box
    of the concept.
    """
    progress = progress or Silent()
    table = np.full((len(matches.thresholds), len(weights), len(truth.names)), np.nan)
    bounds = np.searchsorted(matches.concepts, np.arange(len(truth.names) + 1))
    order = np.argsort(truth.concepts, kind="stable")
    order = order[~truth.crowd[order]]
    boxes = np.split(
        truth.images[order], np.searchsorted(truth.concepts[order], np.arange(1, len(bounds) - 1))
    )
    right, counted = matches.right, ~matches.ignored
    with_boxes = np.flatnonzero([len(photos) > 0 for photos in boxes])

    by_photo = np.ascontiguousarray(weights.T)  # a photo's weights are next to each other: copied at once

    def resample(concept: int) -> None:
        part = slice(bounds[concept], bounds[concept + 1])
        size = max(1, min(RESAMPLES_AT_ONCE, WEIGHTS_AT_ONCE // max(part.stop - part.start, 1)))
        for low in range(0, len(weights), size):
            some = slice(low, low + size)
            positives = by_photo[boxes[concept], some].sum(0)
            values = _ap(matches.images[part], right[:, part], counted[:, part], by_photo[:, some], positives)
            table[:, some, concept] = np.where(positives > 0, values, np.nan)

    progress.start("intervals", len(with_boxes), "concepts")
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        for _ in pool.map(resample, with_boxes.tolist()):
            progress.advance(1)
    progress.finish()
    return table


def _ap(images: Rows, right: Bools, counted: Bools, weights: Floats, positives: Floats) -> Floats:
    """Return (T, B) 101-point AP of K detections. Precision is only needed at true positives, where it peaks.

    right, counted: (T, K); weights: (I, B); positives: (B,), weighted number of boxes.
    """
    values = np.zeros((len(right), weights.shape[1]))
    hits = np.flatnonzero(right.any(0))
    if not len(hits):
        return values
    # Most detections count at every threshold: their sums are computed once. Sums of whole numbers are exact.
    always: Bools = np.asarray(counted.all(0))
    shared = _weight_up_to(hits, always, images, weights)
    levels, starts = _levels_reached(positives)
    for t in range(len(right)):
        rows = np.flatnonzero(right[t])
        if not len(rows):
            continue
        every = shared[np.searchsorted(hits, rows)]
        sometimes = counted[t] & ~always
        if sometimes.any():
            every += _weight_up_to(rows, sometimes, images, weights)
        found = _running_sum(weights[images[rows]])
        every += np.spacing(1)
        precision = np.divide(found, every, out=every)
        for row in range(len(rows) - 2, -1, -1):
            np.maximum(precision[row], precision[row + 1], out=precision[row])
        # The precision of a hit counts once for each recall level that it is the first to reach.
        reached = levels.take(found.astype(np.intp) + starts)
        steps = np.diff(reached, axis=0, prepend=np.uint8(0))
        values[t] = np.einsum("rb,rb->b", steps, precision) / len(RECALLS)
    return values


def _weight_up_to(rows: Rows, chosen: Bools, images: Rows, weights: Floats) -> Floats:
    """Return (R, B) the weight of the chosen detections up to each of R rising rows, with it."""
    places = np.flatnonzero(chosen[: rows[-1] + 1])
    total = np.zeros((len(places) + 1, weights.shape[1]))
    total[1:] = weights[images[places]]
    _running_sum(total)
    found: Floats = total[np.searchsorted(places, rows, side="right")]
    return found


def _running_sum(values: Floats) -> Floats:
    """Replace the rows of (R, B) values by their running sum; return them."""
    for row in range(1, len(values)):
        np.add(values[row], values[row - 1], out=values[row])
    return values


def _levels_reached(positives: Floats) -> tuple[npt.NDArray[np.uint8], Rows]:
    """Return how many recall levels 0, 1, ... true positives reach, by number of boxes in one row.

    positives: (B,). Also returns (B,) where the entry of each for 0 true positives is.
    """
    different, row = np.unique(positives, return_inverse=True)
    found = np.arange(int(positives.max(initial=0)) + 1)
    recall = found / np.maximum(different, 1e-300)[:, None]
    levels = np.searchsorted(RECALLS, recall, side="right").astype(np.uint8)
    return levels.ravel(), row * len(found)


def _row_means(table: Floats) -> Floats:
    """Return the mean of the finite values of each row, NaN without any."""
    known = np.isfinite(table)
    count = known.sum(1)
    total = np.where(known, table, 0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _percentiles(values: Floats, low: float, high: float) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    ends = np.percentile(values, [low, high])
    return float(ends[0]), float(ends[1])
