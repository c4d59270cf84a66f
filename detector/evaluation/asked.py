"""Figures of what users do: detect a few words, present in the photos or not, at the default threshold.

A request is a group of words of the data set. The base concepts of the run that are not in it are its
rivals, as in `cckt predict`. All requests share one pass of the network, guided by all concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.errors import counted
from cckt.detector.evaluation.calibrate import calibration_error, fit_score_calibration, reliability
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluation_set import EvaluationSet
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.evaluation.inference_loop import InferenceResult, Request, Variant
from cckt.detector.evaluation.locate import locate_detections
from cckt.detector.evaluation.match_detections import match_detections
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.vocabulary import with_splits
from cckt.detector.runs.run_folder import Facts

DRAWS = 50
"""Requests that `cckt eval --asked` draws."""
GROUP, MOST_GROUPS = 8, 10
"""Words per request, and largest number of requests, on which the calibration is fitted."""

Bools = npt.NDArray[np.bool_]


def drawn_requests(
    dataset: EvaluationSet, facts: Facts | None, words: int, draws: int, seed: int = 0
) -> list[Request]:
    """Draw requests of different words each; all words if there are fewer than `words`."""
    random, concepts = np.random.default_rng(seed), len(dataset.vocabulary)
    base = _base_rows(dataset, facts)
    return [
        _request(base, random.choice(concepts, min(words, concepts), replace=False)) for _ in range(draws)
    ]


def grouped_requests(dataset: EvaluationSet, facts: Facts | None, seed: int = 0) -> list[Request]:
    """Deal the words into requests of GROUP words, at most MOST_GROUPS; each word is in at most one."""
    order = np.random.default_rng(seed).permutation(len(dataset.vocabulary))
    base = _base_rows(dataset, facts)
    groups = [order[at : at + GROUP] for at in range(0, len(order), GROUP)][:MOST_GROUPS]
    return [_request(base, group) for group in groups]


def requesting(variant: Variant, requests: Sequence[Request], kind: str) -> list[Variant]:
    """Return a variant for each request, with the priors and scoring of `variant`."""
    return [
        replace(variant, name=f"{variant.name} {kind} {number}", requested=one)
        for number, one in enumerate(requests)
    ]


@dataclass(frozen=True)
class RequestMatches:
    """K detections of all requests that count, with what they match, and M boxes of the requested words.

    scores: (K,) as the network gives them; right, novel: (K,); absent: (K,) wrong, of a word that is not in
    the photo; boxes: M by split ("base", "novel"); photos: photos times requests.
    """

    scores: npt.NDArray[np.float64]
    right: Bools
    novel: Bools
    absent: Bools
    boxes: dict[str, int]
    photos: int


def detections_of(inferred: InferenceResult, variants: Sequence[Variant]) -> list[tuple[Request, Detections]]:
    """Return the request of each variant with its detections."""
    pairs = []
    for variant in variants:
        assert variant.requested is not None, f"expected a request in the variant {variant.name!r}"
        pairs.append((variant.requested, inferred.detections[variant.name]))
    return pairs


def match_requests(dataset: EvaluationSet, requests: Sequence[tuple[Request, Detections]]) -> RequestMatches:
    """Match the detections of requests at IoU 0.5; those of words outside their request are dropped.

    A word is novel if the run had no annotated boxes of it, as in `cckt predict`, whatever the split here.
    """
    truth = ground_truth_of(dataset.index, dataset.protocol)
    annotated = np.zeros((len(truth.image_ids), len(truth.names)), bool)
    annotated[truth.images, truth.concepts] = True
    novel = ~dataset.base[dataset.index.concepts.places(dataset.rows)[truth.concept_rows]]
    boxes = np.bincount(truth.concepts[~truth.crowd], minlength=len(truth.names))
    parts, to_find = [], np.zeros(2, np.int64)
    for request, detections in requests:
        rows = np.array(request.words, np.int64)
        found = locate_detections(detections, dataset.index, truth)
        matches = match_detections(truth, found.where(np.isin(found.concepts, rows)))
        scored = ~matches.ignored[0]
        images, concepts, right = (
            one[scored] for one in (matches.images, matches.concepts, matches.right[0])
        )
        absent = ~right & ~annotated[images, concepts]
        parts.append((matches.scores[scored], right, novel[concepts], absent))
        to_find += [boxes[rows][~novel[rows]].sum(), boxes[rows][novel[rows]].sum()]
    scores, right, is_novel, absent = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return RequestMatches(
        scores,
        right,
        is_novel,
        absent,
        {"base": int(to_find[0]), "novel": int(to_find[1])},
        len(truth.image_ids) * len(requests),
    )


def calibration_of(matches: RequestMatches) -> ScoreCalibration:
    """Return the calibration that fits the detections of requests."""
    return fit_score_calibration(matches.scores, matches.right, matches.novel, sum(matches.boxes.values()))


def request_figures(matches: RequestMatches, calibration: ScoreCalibration) -> dict[str, Any]:
    """Return precision, recall and F1 at the threshold of a calibration, by split and for all words.

    absent_finds_per_photo: detections of words that are not in the photo, per photo and request. ece:
    calibration error of the detections that are shown; reliability: `reliability` of all detections. None
    where there is nothing to count.
    """
    known = calibration.apply(matches.scores, matches.novel)
    shown = known >= calibration.threshold
    masks = {"base": ~matches.novel, "novel": matches.novel, "all": np.ones(len(known), bool)}
    sizes = matches.boxes | {"all": sum(matches.boxes.values())}
    figures: dict[str, Any] = {"threshold": calibration.threshold}
    for split, mask in masks.items():
        finds, hits, boxes = (
            int((shown & mask).sum()),
            int((shown & mask & matches.right).sum()),
            sizes[split],
        )
        figures[split] = {
            "precision": hits / finds if finds else None,
            "recall": hits / boxes if boxes else None,
            "f1": 2 * hits / (finds + boxes) if finds + boxes else None,
            "finds": finds,
            "boxes": boxes,
        }
    error = calibration_error(known[shown], matches.right[shown])
    figures["absent_finds_per_photo"] = int((shown & matches.absent).sum()) / max(matches.photos, 1)
    figures["ece"] = None if np.isnan(error) else error
    figures["reliability"] = reliability(known, matches.right)
    return figures


def asked_figures(
    dataset: EvaluationSet,
    inferred: InferenceResult,
    drawn: Sequence[Variant],
    whole: Variant,
    calibration: ScoreCalibration,
) -> dict[str, Any]:
    """Return `request_figures` of drawn requests, with the recall of the same words if all are requested.

    whole: the variant that requests all words. That recall is `recall_with_all_words` of each split.
    """
    pairs = detections_of(inferred, drawn)
    figures = request_figures(match_requests(dataset, pairs), calibration)
    ((_, every),) = detections_of(inferred, [whole])
    together = request_figures(match_requests(dataset, [(one, every) for one, _ in pairs]), calibration)
    for split in ("base", "novel", "all"):
        figures[split]["recall_with_all_words"] = together[split]["recall"]
    return {"words": len(pairs[0][0].words), "draws": len(pairs), **figures}


def headline_of_requests(
    dataset: EvaluationSet, matches: RequestMatches, calibration: ScoreCalibration
) -> dict[str, Any]:
    """Return `request_figures` of grouped requests without the reliability, and the words of a request."""
    figures = request_figures(matches, calibration)
    del figures["reliability"]
    return {"words": min(GROUP, len(dataset.vocabulary)), **figures}


def headline_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (label, text) of `headline_of_requests`, in percent, for the table that shows AP."""
    words, rows = figures["words"], []
    for split in ("base", "novel"):
        if figures[split]["boxes"]:
            for name in ("precision", "recall"):
                value = figures[split][name]
                text = "–" if value is None else f"{100 * value:.1f}"
                rows.append((f"{name} {split}, {counted(words, 'word')} named", text))
    if figures["all"]["boxes"]:
        rows.append(("false finds of absent words per photo", f"{figures['absent_finds_per_photo']:.3f}"))
    return rows


def request_rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return (words, precision, recall, F1, finds) of `request_figures` for a table, in percent."""

    def text(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    return [
        (
            split,
            *(text(figures[split][name]) for name in ("precision", "recall", "f1")),
            str(figures[split]["finds"]),
        )
        for split in ("base", "novel", "all")
    ]


def _request(base: set[int], words: npt.NDArray[np.int64]) -> Request:
    named = {int(row) for row in words}
    return Request(tuple(sorted(named)), tuple(sorted(base - named)))


def _base_rows(dataset: EvaluationSet, facts: Facts | None) -> set[int]:
    """Return the rows of the concepts that the run was trained on; without facts those of the split base."""
    if facts is None:
        return {int(row) for row in dataset.vocabulary.rows("base")}
    trained = {name for row in range(len(facts.names)) for name in facts.names_of(row)}
    return {int(row) for row in with_splits(dataset.vocabulary, trained).rows("base")}
