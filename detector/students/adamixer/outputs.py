"""What passes between the parts of AdaMixer: plain dataclasses of tensors.

Shape legend: B images, S points of the dense levels, T candidates for queries, N queries, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cckt.detector.students.contract import StudentOutput


@dataclass(frozen=True)
class DenseBoxes:
    """Objectness and box of each of S points (or of a selection of them)."""

    objectness: Tensor
    """(B, S) float32 logits; MASKED in the padding."""
    boxes: Tensor
    """(B, S, 4) float32 cxcywh, relative to the unpadded image."""


@dataclass(frozen=True)
class DenseOutput:
    """The dense first stage."""

    points: Tensor
    """(B, S, 2) float32, x and y of the centre of each cell, relative to the unpadded image."""
    candidates: DenseBoxes
    """Of the main head: (B, T), the best points of every level that are left after NMS; the others are
    MASKED."""
    auxiliary: DenseBoxes | None
    """Of the auxiliary head, all points; in training only."""


@dataclass(frozen=True)
class EncodedQueries:
    """Everything that needs no concepts: pyramid, dense boxes, first boxes of the queries."""

    pyramid: list[Tensor]
    """(B, d, h, w) of the levels that stages sample."""
    sizes: Tensor
    """(B, 2) float32, width and height of the unpadded images in pixels."""
    dense: DenseOutput
    boxes: Tensor
    """(B, N, 4) float32 cxcywh, relative to the unpadded image, best first; no gradient flows into them."""
    objectness: Tensor
    """(B, N) float32 logits of the dense stage."""
    kept: Tensor
    """(B, N) bool: a query, not padding (fewer distinct boxes than queries)."""
    image: Tensor | None = None
    """(B, D) float32 unit embeddings of the images, in training."""


@dataclass(frozen=True)
class MixerOutput(StudentOutput):
    """The output of the stages, and of the dense stage."""

    dense: DenseOutput | None = None
    sizes: Tensor | None = None
    """(B, 2) float32, width and height of the unpadded images in pixels."""
