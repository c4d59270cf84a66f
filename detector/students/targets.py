"""What a student is trained towards: the annotated objects of images, with named rows of teacher embeddings.

Proposals (docs/method/hd_ovd.md, section 3) are a second set of boxes, without concepts; the teacher's rows
of their crops and nouns are rows of scope "proposal".

Shape legend: B images, M most objects of an image, P most proposals of an image (both are padded), D width of
the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class TeacherRows:
    """Teacher embeddings of the objects or proposals of an image, or of the image, from one source
    (`data/teacher_rows.py`).

    In a batch both tensors have a leading dimension B.
    """

    values: Tensor
    """(M, D) float32 unit, one row per object; (P, D) per proposal; (1, D) for the image. Undefined where
    `valid` is False."""
    valid: Tensor
    """(M,), (P,) or (1,) bool: the row has a teacher embedding."""
    scope: Literal["object", "proposal", "image"] = "object"
    """What a row belongs to."""
    ids: Tensor | None = None
    """(M,) or (P,) int64: equal numbers are the same text, such as the noun of two proposals; None if rows
    have no such identity. Undefined where `valid` is False."""

    def map(self, act: Callable[[Tensor], Tensor]) -> TeacherRows:
        """Return the rows with `act` applied to each tensor."""
        ids = None if self.ids is None else act(self.ids)
        return replace(self, values=act(self.values), valid=act(self.valid), ids=ids)


@dataclass(frozen=True)
class ProposalBoxes:
    """Class-agnostic regions of one image in its view, best first; all pass the size test of eq. 13 of
    docs/method/hd_ovd.md. In a batch (`PaddedProposals`) tensors have a leading dimension B."""

    boxes: Tensor
    """(P, 4) float32 cxcywh, normalised to the unpadded image, in [0, 1]."""
    distilled: Tensor
    """(P,) bool: the first few, which the terms distil; the first stage of a detector learns all of them."""

    def __len__(self) -> int:
        return int(self.boxes.shape[0])


@dataclass(frozen=True)
class PaddedProposals:
    """The proposals of a batch, padded; fields as in `ProposalBoxes`, (B, P, ...)."""

    boxes: Tensor
    distilled: Tensor
    """False in the padding."""
    real: Tensor
    """(B, P) bool: a proposal, not padding."""
    counts: tuple[int, ...]
    """Proposals of each image, on the CPU."""
    distilled_counts: tuple[int, ...]
    """Proposals of each image that are distilled; they are its first ones."""

    def map(self, act: Callable[[Tensor], Tensor]) -> PaddedProposals:
        """Return the proposals with `act` applied to each tensor."""
        return replace(self, boxes=act(self.boxes), distilled=act(self.distilled), real=act(self.real))


@dataclass(frozen=True)
class Targets:
    """The annotated objects of one image."""

    boxes: Tensor
    """(M, 4) float32 cxcywh, normalised to the unpadded image, in [0, 1]."""
    concepts: Tensor
    """(M,) int64, rows of the text matrix in training."""
    teacher: Mapping[str, TeacherRows] = field(default_factory=dict)
    """Name ("crop", ...) -> teacher embeddings."""
    proposals: ProposalBoxes | None = None
    """Regions without annotation to learn from; None if no term and no detector needs them."""

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def without_objects(self) -> Targets:
        """Return targets without objects, with the same names of teacher rows, all of them invalid."""
        rows = {
            name: one.map(lambda rows: rows[:0])
            if one.scope != "image"
            else replace(one, valid=torch.zeros_like(one.valid))
            for name, one in self.teacher.items()
        }
        proposals = self.proposals
        if proposals is not None:
            proposals = ProposalBoxes(proposals.boxes[:0], proposals.distilled[:0])
        return Targets(self.boxes[:0], self.concepts[:0], rows, proposals)


@dataclass(frozen=True)
class PaddedTargets:
    """The objects of a batch, padded; fields as in `Targets`, (B, M, ...)."""

    boxes: Tensor
    concepts: Tensor
    real: Tensor
    """(B, M) bool: an object, not padding."""
    counts: tuple[int, ...]
    """Objects of each image, on the CPU: reading them never waits for a GPU."""
    teacher: Mapping[str, TeacherRows] = field(default_factory=dict)
    proposals: PaddedProposals | None = None

    @property
    def objects(self) -> int:
        """Number of objects in the batch."""
        return sum(self.counts)

    def map(self, act: Callable[[Tensor], Tensor]) -> PaddedTargets:
        """Return the targets with `act` applied to each tensor."""
        return PaddedTargets(
            act(self.boxes),
            act(self.concepts),
            act(self.real),
            self.counts,
            {name: rows.map(act) for name, rows in self.teacher.items()},
            None if self.proposals is None else self.proposals.map(act),
        )

    def padded_to(self, objects: int, proposals: int = 0) -> PaddedTargets:
        """Return the targets padded to at least `objects` and `proposals` per image, so that all ranks have
        one shape."""

        def padded(rows: Tensor, count: int, value: float = 0.0) -> Tensor:
            more = max(0, count - rows.shape[1])
            return F.pad(rows, (0, 0) * (rows.dim() - 2) + (0, more), value=value)

        least = {"object": objects, "proposal": proposals, "image": 1}
        teacher = {
            name: rows.map(lambda one, count=least[rows.scope]: padded(one, count))  # type: ignore[misc]
            for name, rows in self.teacher.items()
        }
        regions = self.proposals
        if regions is not None:
            regions = replace(
                regions.map(lambda rows: padded(rows, proposals)),
                boxes=padded(regions.boxes, proposals, 0.5),
            )
        return PaddedTargets(
            padded(self.boxes, objects, 0.5),
            padded(self.concepts, objects),
            padded(self.real, objects),
            self.counts,
            teacher,
            regions,
        )


def pad_targets(targets: Sequence[Targets] | PaddedTargets) -> PaddedTargets:
    """Pad the targets of a batch; padded targets are returned unchanged.

    Padding boxes are 0.5 throughout, other padding is 0. All images must have the same names of teacher rows.
    """
    if isinstance(targets, PaddedTargets):
        return targets
    names = list(targets[0].teacher) if targets else []
    assert all(list(one.teacher) == names for one in targets), "images differ in their teacher rows"
    teacher = {}
    for name in names:
        rows = [one.teacher[name] for one in targets]
        ids = [one.ids for one in rows if one.ids is not None]
        teacher[name] = TeacherRows(
            pad_sequence([one.values for one in rows], batch_first=True),
            pad_sequence([one.valid for one in rows], batch_first=True),
            rows[0].scope,
            pad_sequence(ids, batch_first=True) if ids else None,
        )
    return PaddedTargets(
        pad_sequence([one.boxes for one in targets], batch_first=True, padding_value=0.5),
        pad_sequence([one.concepts for one in targets], batch_first=True),
        pad_sequence([torch.ones_like(one.concepts, dtype=torch.bool) for one in targets], batch_first=True),
        tuple(len(one) for one in targets),
        teacher,
        _pad_proposals([one.proposals for one in targets if one.proposals is not None]),
    )


def _pad_proposals(proposals: Sequence[ProposalBoxes]) -> PaddedProposals | None:
    if not proposals:
        return None
    counts = tuple(len(one) for one in proposals)
    return PaddedProposals(
        pad_sequence([one.boxes for one in proposals], batch_first=True, padding_value=0.5),
        pad_sequence([one.distilled for one in proposals], batch_first=True),
        pad_sequence([torch.ones_like(one.distilled) for one in proposals], batch_first=True),
        counts,
        tuple(int(one.distilled.sum()) for one in proposals),
    )
