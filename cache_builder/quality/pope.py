"""Yes/no questions of three difficulties, as in POPE.

Source: Li et al. 2023, "Evaluating Object Hallucination in Large Vision-Language Models". The questions about
an image are its annotated concepts and the same number of absent ones: `random` ones, the `popular` ones of
the data set, or `adversarial` ones, which occur most often together with the annotated concepts. A model that
answers yes to whatever is likely fails the last two. Needs the column and the index, no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.presence import seed_of
from cckt.cache_builder.quality.existence import ratio

KINDS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class PopeMetrics:
    """Metrics of yes/no answers. Shares are in [0, 1], NaN without questions."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes: float
    """Share of questions answered yes; 0.5 is right."""
    questions: int
    """Half of them have the answer yes."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def pope_report(
    priors: NDArray[np.floating],
    presence: NDArray[np.bool_],
    splits: Mapping[str, NDArray[np.integer]],
    *,
    threshold: float = 0.5,
    image_ids: NDArray[np.integer] | None = None,
    valid: NDArray[np.bool_] | None = None,
    known: NDArray[np.bool_] | None = None,
) -> dict[str, dict[str, PopeMetrics]]:
    """Return metrics by kind of negatives and split: report["adversarial"]["novel"].f1.

    priors: (I, C) probabilities; the answer is yes for priors of at least `threshold`.
    presence: (I, C) bool, annotated.
    splits: name -> concept rows. Negatives come from the same split; "all" holds the concepts of all splits.
    image_ids: (I,) seeds of the random negatives; default the row.
    valid: (I,) bool, images with questions; default all. Popularity and co-occurrence are counted over them.
    known: (I, C) bool, pairs whose truth is known (LVIS).
    """
    assert priors.shape == presence.shape, f"expected {presence.shape}, found {priors.shape}"
    images = np.arange(len(priors)) if valid is None else np.flatnonzero(valid)
    seeds = np.arange(len(priors)) if image_ids is None else image_ids
    scored = np.unique(np.concatenate([np.zeros(0, np.int64), *splits.values()])).astype(np.int64)
    says_yes = priors >= threshold
    report: dict[str, dict[str, PopeMetrics]] = {kind: {} for kind in KINDS}
    for name, rows in {**splits, "all": scored}.items():
        shown = presence[:, rows]
        candidates = ~shown if known is None else ~shown & known[:, rows]
        popularity = shown[images].sum(axis=0).astype(np.float64)
        together = shown[images].T.astype(np.float64) @ shown[images]  # images that show both concepts
        for kind in KINDS:
            truth, answers = [], []
            for image in images.tolist():
                present, absent = np.flatnonzero(shown[image]), np.flatnonzero(candidates[image])
                count = min(len(present), len(absent))
                if not count:
                    continue
                if kind == "random":
                    chosen = np.random.default_rng((seed_of(seeds[image]), 0)).permutation(absent)[:count]
                else:
                    rank = popularity if kind == "popular" else together[present].sum(axis=0)
                    chosen = absent[np.argsort(-rank[absent], kind="stable")[:count]]
                for picked, answer in ((present[:count], True), (chosen, False)):
                    truth += [answer] * count
                    answers += says_yes[image, rows[picked]].tolist()
            report[kind][name] = answer_metrics(np.array(truth, bool), np.array(answers, bool))
    return report


def answer_metrics(truth: NDArray[np.bool_], answers: NDArray[np.bool_]) -> PopeMetrics:
    """Return the metrics of `answers` (n,) to questions whose right answers are `truth` (n,)."""
    hits = int((truth & answers).sum())
    claimed, present = int(answers.sum()), int(truth.sum())
    return PopeMetrics(
        accuracy=ratio(int((truth == answers).sum()), len(truth)),
        precision=ratio(hits, claimed),
        recall=ratio(hits, present),
        f1=ratio(2 * hits, claimed + present),
        yes=ratio(claimed, len(truth)),
        questions=len(truth),
    )
