"""Counts of novel objects: found, kept by the score, and called what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import NovelObjects, count_novel_objects
from tests.detector.evaluation.evaluation_world import random_found, random_truth


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def slow_counts(truth: GroundTruth, found: LocatedDetections, threshold: float) -> NovelObjects:
    counts = dict.fromkeys(("objects", "recalled", "selected", "base", "novel", "correct"), 0)
    for box in range(len(truth.images)):
        concept = int(truth.concepts[box])
        if truth.crowd[box] or truth.splits[concept] != "novel":
            continue
        counts["objects"] += 1
        near = [
            row
            for row in range(len(found.scores))
            if found.images[row] == truth.images[box]
            and overlap(found.boxes_xywh[row].tolist(), truth.boxes_xywh[box].tolist()) >= 0.5
        ]
        if not near:
            continue
        counts["recalled"] += 1
        best = max(near, key=lambda row: (found.scores[row], -row))
        if found.scores[best] < threshold:
            continue
        counts["selected"] += 1
        named = int(found.concepts[best])
        called = "correct" if named == concept else truth.splits[named]
        if called != "other":
            counts[called] += 1
    return NovelObjects(**counts, threshold=threshold)


def test_no_boxes_and_no_detections() -> None:
    rng = np.random.default_rng(0)
    empty = random_truth(rng, photos=2, concepts=3, boxes=0)
    nothing = random_found(rng, empty, 0)
    assert count_novel_objects(empty, nothing, 0.5) == NovelObjects(0, 0, 0, 0, 0, 0, 0.5)
    truth = random_truth(rng, photos=2, concepts=1, boxes=3)
    truth = replace(truth, crowd=np.zeros(3, bool))
    assert count_novel_objects(truth, nothing, 0.5) == NovelObjects(3, 0, 0, 0, 0, 0, 0.5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.0, 0.4, 0.9]))
def test_counts_equal_those_of_plain_loops(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, photos=3, concepts=6, boxes=20)
    truth = replace(truth, splits=[*truth.splits[:4], "novel", "other"])
    found = random_found(rng, truth, 60)
    counts = count_novel_objects(truth, found, threshold)
    assert counts == slow_counts(truth, found, threshold)
    assert counts.base + counts.novel + counts.correct <= counts.selected
    assert counts.selected <= counts.recalled <= counts.objects
