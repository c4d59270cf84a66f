"""What flows between the rooms of the detector: plain dataclasses of tensors, no behaviour worth the name.

Shape legend: L decoder layers, B photos, N queries, C concepts of the vocabulary, D teacher width,
G most present concepts of a photo in the batch, M objects of one photo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

NEVER = -1e4
"""A logit or score of what is not there: no loss, no match, last in every order. Finite, for the sake of
gradients, and within what float16 holds."""


@dataclass(frozen=True)
class PresentText:
    """The concepts said to be present in each photo, likeliest first, as the model takes them."""

    embeddings: Tensor
    """(B, G, D) unit text embeddings; rows at and past `counts[b]` are padding (zeros). G may be 0."""
    counts: Tensor
    """(B,) int64, present concepts of each photo, 0..G."""

    @staticmethod
    def gather(text: Tensor, rows: list[Tensor]) -> PresentText:
        """Pick and pad.

        text: (C, D) unit; rows: for each photo a (G_b,) int64 tensor of rows of `text`, likeliest first.
        """
        counts = torch.tensor([len(one) for one in rows], dtype=torch.int64)
        width = int(counts.max()) if len(rows) else 0
        embeddings = text.new_zeros((len(rows), width, text.shape[1]))
        for b, one in enumerate(rows):
            embeddings[b, : len(one)] = text[one.to(text.device)]
        return PresentText(embeddings, counts.to(text.device))


@dataclass(frozen=True)
class Targets:
    """The annotated objects of one photo."""

    boxes: Tensor
    """(M, 4) float32 cxcywh, normalised to the photo's own (unpadded) size, in [0, 1]."""
    concepts: Tensor
    """(M,) int64, rows of the text matrix the class head is trained against."""
    embeddings: Tensor
    """(M, D) float32 unit teacher embeddings of the crops; anything where `valid` is false."""
    valid: Tensor
    """(M,) bool: the crop has a teacher embedding."""

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    @staticmethod
    def empty(width: int) -> Targets:
        """A photo without objects; `width` is the teacher's D."""
        return Targets(
            torch.zeros((0, 4)),
            torch.zeros((0,), dtype=torch.int64),
            torch.zeros((0, width)),
            torch.zeros((0,), dtype=torch.bool),
        )


@dataclass(frozen=True)
class PaddedTargets:
    """The objects of a batch side by side; fields as in Targets, (B, M, ...)."""

    boxes: Tensor
    concepts: Tensor
    embeddings: Tensor
    valid: Tensor
    real: Tensor
    """(B, M) bool: it is an object and no padding."""
    counts: tuple[int, ...]
    """Objects of each photo, for those who must not wait for a GPU to tell."""

    @property
    def objects(self) -> int:
        """Objects of the batch."""
        return sum(self.counts)

    def each(self, act: Callable[[Tensor], Tensor]) -> PaddedTargets:
        """The same with every tensor as `act` makes it."""
        return PaddedTargets(
            act(self.boxes),
            act(self.concepts),
            act(self.embeddings),
            act(self.valid),
            act(self.real),
            self.counts,
        )


def pad_targets(targets: Sequence[Targets] | PaddedTargets) -> PaddedTargets:
    """Pad once, for matcher and losses both. Padding boxes are .5 throughout, other padding is 0."""
    if isinstance(targets, PaddedTargets):
        return targets
    real = [torch.ones_like(one.valid) for one in targets]
    return PaddedTargets(
        pad_sequence([one.boxes for one in targets], batch_first=True, padding_value=0.5),
        pad_sequence([one.concepts for one in targets], batch_first=True),
        pad_sequence([one.embeddings for one in targets], batch_first=True),
        pad_sequence([one.valid for one in targets], batch_first=True),
        pad_sequence(real, batch_first=True),
        tuple(len(one) for one in targets),
    )


def widened(targets: PaddedTargets, objects: int) -> PaddedTargets:
    """The same padded to at least so many objects a photo, for ranks whose tensors must have one shape."""
    more = max(0, objects - targets.boxes.shape[1])
    wide = targets.each(lambda rows: F.pad(rows, (0, 0) * (rows.dim() - 2) + (0, more)))
    return replace(wide, boxes=F.pad(targets.boxes, (0, 0, 0, more), value=0.5))


@dataclass(frozen=True)
class Proposals:
    """What the cells of the encoder say, S of each photo, when they give the queries their first boxes."""

    objectness: Tensor
    """(B, S) float32 logits; NEVER in the padding."""
    boxes: Tensor
    """(B, S, 4) float32 cxcywh in [0, 1], relative to the unpadded photo."""
    region: Tensor | None = None
    """(B, S, D) float32 unit embeddings of the cells, where words have a say in the choice of cells."""
    words: Tensor | None = None
    """(B, S, G) float32 logits that a present concept is at the cell, G at least 1; None like `region`."""


@dataclass(frozen=True)
class NoisedQueries:
    """Queries of a training step that are told a place and a word; Q of each photo, in equal groups."""

    boxes: Tensor
    """(B, Q, 4) float32 cxcywh in [0, 1], where they begin."""
    words: Tensor
    """(B, Q, D) unit text embeddings of what they ask for; zeros where not `real`."""
    real: Tensor
    """(B, Q) bool: the query stands for an object; others fill up the batch."""
    contents: Tensor
    """(Q,) int64, the learned query whose content each begins with."""
    groups: int
    """Groups; each holds a query that fits and one that does not for every object, in that order."""


@dataclass(frozen=True)
class TrainingQueries:
    """What a training step asks for beside the queries; none of it can be seen by them."""

    noised: NoisedQueries | None = None
    """Denoising queries."""
    alone: bool = False
    """Copies of the queries, none of which sees another, for the one-to-many matching."""


@dataclass(frozen=True)
class DetectorOutput:
    """What every decoder layer says; the last layer (index -1) is the answer."""

    boxes: Tensor
    """(L, B, N, 4) float32 cxcywh in [0, 1], relative to the unpadded photo."""
    logits: Tensor
    """(L, B, N, C) class logits (float32)."""
    region: Tensor
    """(L, B, N, D) float32 unit region embeddings, comparable with the teacher's."""
    proposals: Proposals | None = None
    """The cells' own boxes, for their losses; None where queries begin at learned points."""
    noised: DetectorOutput | None = None
    """Of the Q denoising queries, where there are any."""
    alone: DetectorOutput | None = None
    """Of the N copies for the one-to-many matching, where there are any."""

    def last(self) -> DetectorOutput:
        """Only the answer, as an output of one layer."""
        return DetectorOutput(self.boxes[-1:], self.logits[-1:], self.region[-1:])
