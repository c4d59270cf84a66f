"""What a student is trained towards: the annotated objects of images, with named rows of teacher embeddings.

Shape legend: B images, M most objects of an image (others are padded), D width of the teacher.
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
    """Teacher embeddings of the objects of an image, or of the image, from one source
    (`data/teacher_rows.py`).

    In a batch both tensors have a leading dimension B.
    """

    values: Tensor
    """(M, D) float32 unit, one row per object; (1, D) for the image. Undefined where `valid` is False."""
    valid: Tensor
    """(M,) or (1,) bool: the row has a teacher embedding."""
    scope: Literal["object", "image"] = "object"
    """What a row belongs to."""

    def map(self, act: Callable[[Tensor], Tensor]) -> TeacherRows:
        """Return the rows with `act` applied to each tensor."""
        return replace(self, values=act(self.values), valid=act(self.valid))


@dataclass(frozen=True)
class Targets:
    """The annotated objects of one image."""

    boxes: Tensor
    """(M, 4) float32 cxcywh, normalised to the unpadded image, in [0, 1]."""
    concepts: Tensor
    """(M,) int64, rows of the text matrix in training."""
    teacher: Mapping[str, TeacherRows] = field(default_factory=dict)
    """Name ("crop", ...) -> teacher embeddings."""

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def without_objects(self) -> Targets:
        """Return targets without objects, with the same names of teacher rows, all of them invalid."""
        rows = {
            name: replace(one, values=one.values[:0], valid=one.valid[:0])
            if one.scope == "object"
            else replace(one, valid=torch.zeros_like(one.valid))
            for name, one in self.teacher.items()
        }
        return Targets(self.boxes[:0], self.concepts[:0], rows)


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
        )

    def padded_to(self, objects: int) -> PaddedTargets:
        """Return the targets padded to at least `objects` per image, so that all ranks have one shape."""
        more = max(0, objects - self.boxes.shape[1])

        def pad(rows: Tensor) -> Tensor:
            return F.pad(rows, (0, 0) * (rows.dim() - 2) + (0, more))

        teacher = {
            name: rows.map(pad) if rows.scope == "object" else rows for name, rows in self.teacher.items()
        }
        boxes = F.pad(self.boxes, (0, 0, 0, more), value=0.5)
        return PaddedTargets(boxes, pad(self.concepts), pad(self.real), self.counts, teacher)


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
        teacher[name] = TeacherRows(
            pad_sequence([one.values for one in rows], batch_first=True),
            pad_sequence([one.valid for one in rows], batch_first=True),
            rows[0].scope,
        )
    return PaddedTargets(
        pad_sequence([one.boxes for one in targets], batch_first=True, padding_value=0.5),
        pad_sequence([one.concepts for one in targets], batch_first=True),
        pad_sequence([torch.ones_like(one.concepts, dtype=torch.bool) for one in targets], batch_first=True),
        tuple(len(one) for one in targets),
        teacher,
    )
