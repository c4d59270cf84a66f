"""What passes between the parts of Deformable DETR in training: plain dataclasses of tensors.

Shape legend: L decoder layers, B images, S cells of the encoder, N queries, Q denoising queries, C concepts,
D width of the teacher, G most present concepts of an image, K pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cckt.detector.students.contract import Pairs, StudentOutput


@dataclass(frozen=True)
class EncoderCells:
    """Objectness and box of each encoder cell, where cells give the queries their first boxes."""

    objectness: Tensor
    """(B, S) float32 logits; MASKED in the padding."""
    boxes: Tensor
    """(B, S, 4) float32 cxcywh in [0, 1], relative to the unpadded image."""
    region: Tensor | None = None
    """(B, S, D) float32 unit embeddings of the cells, with guided references; else None."""
    words: Tensor | None = None
    """(B, S, G) float32 logits of the present concepts at each cell, G at least 1; None if `region` is."""


@dataclass(frozen=True)
class NoisedQueries:
    """Denoising queries of a training step, Q per image, in equal groups."""

    boxes: Tensor
    """(B, Q, 4) float32 cxcywh in [0, 1], their first boxes."""
    words: Tensor
    """(B, Q, D) unit text embeddings that guide them; zeros where not `real`."""
    real: Tensor
    """(B, Q) bool: the query belongs to an object; the others are padding."""
    contents: Tensor
    """(Q,) int64, the learned query whose content each one starts with."""
    groups: int
    """Number of groups; each has a positive and then a negative query for every object."""


@dataclass(frozen=True)
class TrainingQueries:
    """Queries of a training step besides the learned ones, which never attend to them."""

    noised: NoisedQueries | None = None
    """Denoising queries."""
    copies: bool = False
    """Copies of the queries without self-attention, for the one-to-many matching."""


@dataclass(frozen=True)
class DeformableOutput(StudentOutput):
    """The output of the queries, and of what exists in training only."""

    cells: EncoderCells | None = None
    """Of the encoder cells; None with learned references."""
    noised: StudentOutput | None = None
    """Of the Q denoising queries, if any."""
    copies: StudentOutput | None = None
    """Of the N copies for the one-to-many matching, if any."""
    dense: EncoderCells | None = None
    """Of the encoder cells by the auxiliary head (`one_to_many.encoder_repeats`), in training only."""


@dataclass(frozen=True)
class DeformablePairs(Pairs):
    """Pairs of the queries, and of what exists in training only."""

    cells: Pairs | None = None
    """Of the encoder cells (one layer), if the output has them."""
    copies: Pairs | None = None
    """Of the copies of the queries, each object several times, if the output has copies."""
    dense: Pairs | None = None
    """Of the auxiliary head's cells, each object several times, if the output has them."""
