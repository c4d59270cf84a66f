"""Count the concepts that novel objects are detected as.

The best detection of a box has the right concept, a base one, another novel one, or there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cckt.detector.evaluation.ground_truth import GroundTruth, Rows
from cckt.detector.evaluation.locate import LocatedDetections
from cckt.detector.evaluation.match_detections import best_detections


@dataclass(frozen=True)
class Neighbour:
    """A base concept seen from a novel one: cosine of their texts, and number of boxes detected as it."""

    name: str
    cosine: float
    boxes: int


@dataclass(frozen=True)
class ConceptConfusion:
    """The boxes of one novel concept, by the best detection that overlaps each of them (IoU 0.5).

    correct, base, other_novel, missed: number of boxes whose best detection has the right concept, a base
    one, another novel one, or that have no detection. nearest: base concepts by falling cosine of the texts.
    detected_as: base concepts by falling number of boxes, without those that have none.
    """

    name: str
    boxes: int
    correct: int
    base: int
    other_novel: int
    missed: int
    nearest: tuple[Neighbour, ...]
    detected_as: tuple[Neighbour, ...]


def confusion(
    truth: GroundTruth, found: LocatedDetections, text: npt.NDArray[np.floating], *, nearest: int = 5
) -> list[ConceptConfusion]:
    """Return the confusion of every novel concept that has a box, lowest share of correct boxes first.

    text: (C, D) unit embeddings of the concepts of `truth`. Detections of any score count. nearest: most base
    concepts in each list.
    """
    best = best_detections(truth, found)
    detected = np.where(best >= 0, found.concepts[best], -1) if len(found.scores) else best
    cosine = np.asarray(text, np.float64) @ np.asarray(text, np.float64).T
    base, novel = np.flatnonzero(truth.in_split("base")), np.flatnonzero(truth.in_split("novel"))
    result = []
    for concept in novel:
        of_boxes = detected[(truth.concepts == concept) & ~truth.crowd]
        if not len(of_boxes):
            continue
        counts = np.bincount(of_boxes[of_boxes >= 0], minlength=len(truth.names))

        def neighbour(other: int, concept: int = int(concept), counts: Rows = counts) -> Neighbour:
            return Neighbour(truth.names[other], float(cosine[concept, other]), int(counts[other]))

        by_text = base[np.argsort(-cosine[concept, base], kind="stable")][:nearest]
        by_count = base[np.argsort(-counts[base], kind="stable")][:nearest]
        result.append(
            ConceptConfusion(
                name=truth.names[concept],
                boxes=len(of_boxes),
                correct=int(counts[concept]),
                base=int(counts[base].sum()),
                other_novel=int(counts[novel].sum() - counts[concept]),
                missed=int((of_boxes < 0).sum()),
                nearest=tuple(neighbour(int(row)) for row in by_text),
                detected_as=tuple(neighbour(int(row)) for row in by_count if counts[row]),
            )
        )
    return sorted(result, key=lambda one: (one.correct / one.boxes, one.name))
