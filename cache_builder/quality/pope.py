"""Yes/no questions of three kinds of difficulty, as POPE asks them (Li et al. 2023, "Evaluating Object
Hallucination in Large Vision-Language Models").

For each photo, its annotated concepts are asked about, and as many that are absent: `random` ones, the
`popular` ones of the data set, or `adversarial` ones, which most often come together with what is there. A
model that says yes to what it expects fails the last two. Needs the column and the index, no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class PopeFigures:
    """Answers to `questions` questions, half of them with the answer yes; each in [0, 1], NaN without any.

    yes: share of questions answered yes, 0.5 at best.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes: float
    questions: int

    def to_json(self) -> dict[str, Any]:
        """Plain figures."""
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
) -> dict[str, dict[str, PopeFigures]]:
    """Figures by kind of negatives and split: report["adversarial"]["novel"].f1.

    priors: (I, C) probabilities; yes is p >= threshold. presence: (I, C) bool, annotated. splits: name ->
    concept rows; negatives come from the same split, "all" is all of them together. image_ids: (I,), seed the
    random negatives (default: the row). valid: (I,) photos to ask about. known: (I, C) pairs whose truth is
    known (LVIS). Popularity and company are counted over the photos asked about.
    """
    assert priors.shape == presence.shape, (priors.shape, presence.shape)
    photos = np.arange(len(priors)) if valid is None else np.flatnonzero(valid)
    seeds = np.arange(len(priors)) if image_ids is None else image_ids
    asked = np.unique(np.concatenate([np.zeros(0, np.int64), *splits.values()])).astype(np.int64)
    said = priors >= threshold
    report: dict[str, dict[str, PopeFigures]] = {kind: {} for kind in KINDS}
    for name, rows in {**splits, "all": asked}.items():
        shown = presence[:, rows]
        open_ = ~shown if known is None else ~shown & known[:, rows]
        popular = shown[photos].sum(axis=0).astype(np.float64)
        company = shown[photos].T.astype(np.float64) @ shown[photos]
        for kind in KINDS:
            truth, answers = [], []
            for photo in photos.tolist():
                there, absent = np.flatnonzero(shown[photo]), np.flatnonzero(open_[photo])
                count = min(len(there), len(absent))
                if not count:
                    continue
                if kind == "random":
                    chosen = np.random.default_rng((int(seeds[photo]), 0)).permutation(absent)[:count]
                else:
                    rank = popular if kind == "popular" else company[there].sum(axis=0)
                    chosen = absent[np.argsort(-rank[absent], kind="stable")[:count]]
                for picked, answer in ((there[:count], True), (chosen, False)):
                    truth += [answer] * count
                    answers += said[photo, rows[picked]].tolist()
            report[kind][name] = figures(np.array(truth, bool), np.array(answers, bool))
    return report


def figures(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> PopeFigures:
    """Figures of answers `said` (n,) to questions with the answers `truth` (n,)."""
    hits = int((truth & said).sum())
    claimed, right = int(said.sum()), int(truth.sum())
    return PopeFigures(
        accuracy=_share(int((truth == said).sum()), len(truth)),
        precision=_share(hits, claimed),
        recall=_share(hits, right),
        f1=_share(2 * hits, claimed + right),
        yes=_share(claimed, len(truth)),
        questions=len(truth),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
